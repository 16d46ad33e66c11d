"""Is the void on the mesh? The same fine-tuning with and without mask and fill, on voids of several kinds.

    python -m benchmarks.mask_study MESHES [--folder outputs/mask-study] [--seeds 5] [--until HH:MM] [--games FOLDER]

MESHES is a folder of real ones: Debian's package sweethome3d-furniture 1.8-1 for the committed results
(apt-get download sweethome3d-furniture; dpkg-deb -x *.deb PLACE; unzip each .sh3f there; licences CC0 and CC BY).
Nothing of it is part of this repository. Of the textures that `texdiff prepare` makes of it a third is held out. Each
run is one of `conditions.py`: LoRA of rank 16 on nano, 128 px, batch 4, learning rate 1e-3 falling to 0 over 300 steps.
Rows go to FOLDER/rows.jsonl one by one; stopped and started again it continues. At the end, or at --until, it writes
benchmarks/results/mask_study.json and .md, and docs/pictures/void_on_the_surface.jpg, from what is there.
"""

import argparse
import json
import time
from pathlib import Path

import torch

from benchmarks.mask_study import datasets, train
from benchmarks.mask_study.conditions import BASE, BOTH, USUAL, Job, jobs
from benchmarks.mask_study.picture import draw_picture
from benchmarks.mask_study.table import Study, tables

RESULTS = Path(__file__).parents[1] / "results"
PICTURE = Path(__file__).parents[2] / "docs/pictures/void_on_the_surface.jpg"


def rows_of(folder: Path) -> dict[Job, dict]:
    """What is done already; a last line that was cut short is not."""
    file, found = folder / "rows.jsonl", {}
    for line in file.read_text("utf-8").splitlines() if file.exists() else []:
        try:
            row = json.loads(line)
            found[Job(row["void"], row["band"], row["arm"], row["seed"])] = row
        except ValueError:
            continue
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("meshes", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("outputs/mask-study"))
    parser.add_argument("--seeds", type=int, default=5, help="of the main setting: void painted black, all coverages")
    parser.add_argument("--until", help="time of day after which no run is started")
    parser.add_argument(
        "--games", type=Path, help="folder of benchmarks.nano.collect, to count the voids of its atlases"
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.folder.mkdir(parents=True, exist_ok=True)
    datasets.prepare(given.meshes, given.folder)
    done, todo = rows_of(given.folder), jobs(given.seeds)
    for number, job in enumerate(todo):
        if job in done:
            continue
        if given.until and time.strftime("%H:%M") >= given.until:
            break
        begin = time.process_time(), time.time()
        row = train.base(job, given.folder) if job.arm == BASE else train.run(job, given.folder)
        took = {"cpu": round(time.process_time() - begin[0], 1), "wall": round(time.time() - begin[1], 1)}
        line = json.dumps(vars(job) | row | took)
        with (given.folder / "rows.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        print(f"{time.strftime('%H:%M:%S')} {number + 1}/{len(todo)} {job.name}: {took}", flush=True)
    report(given.folder, given.games)


def report(folder: Path, games: Path | None) -> None:
    """Tables and picture of what FOLDER holds."""
    study = Study(folder, rows_of(folder))
    found = study.to_json(games)
    RESULTS.joinpath("mask_study.json").write_text(json.dumps(found, indent=1) + "\n")
    RESULTS.joinpath("mask_study.md").write_text(tables(found))
    draw_picture(folder, study.seeds("black", "all", USUAL, BOTH), PICTURE)
    print(tables(found))


if __name__ == "__main__":
    main()
