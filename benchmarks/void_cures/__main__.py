"""What is drawn in the void while sampling, and whether it harms the surface: three cures, on nano.

    python -m benchmarks.void_cures MESHES --net RUN [--folder outputs/void-cures] [--seeds 3]

Latents outside the mask are not supervised, yet sampling carries them along, and convolutions and attention read them.
Cures: a small `mask.unmasked_weight` on the filled void; `mask.outside: base_model`; and the void given anew at each
sampling step: what the estimate of the clean latents has in the islands, filled into the void, and noise added again.
The last needs no training, so each arm is drawn with it and without.

MESHES as for benchmarks.mask_study; RUN is a layout net's, of benchmarks.layout_gain. The held-out errors of each run
go to FOLDER/rows.jsonl, and what it draws beside it; stopped and started again it continues. At the end, or with
--judge at once, it writes benchmarks/results/void_cures.json and .md from what is there.
"""

import argparse
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks.mask_study.datasets import prepare
from benchmarks.void_cures.judge import ERRORS, table
from benchmarks.void_cures.runs import CURES, SAMPLERS, TRAINED, draw, drawn_file, trained

RESULTS = Path(__file__).parents[1] / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("meshes", type=Path)
    parser.add_argument("--net", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path("outputs/void-cures"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--judge", action="store_true", help="train nothing more")
    given = parser.parse_args()
    torch.set_num_threads(1)
    folder, net = given.folder.absolute(), given.net.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    prepare(given.meshes, folder)
    log = folder / "rows.jsonl"
    rows = [json.loads(line) for line in log.read_text("utf-8").splitlines()] if log.exists() else []
    todo = [(seed, what, cure) for seed in range(given.seeds) for what in TRAINED for cure in CURES]
    for seed, what, cure in [] if given.judge else todo:
        if TRAINED[what][0] == "controlnet" and cure == "outside base_model":
            continue  # nothing but its own prediction is there to compare with
        if any((row["seed"], row["trained"], row["cure"]) == (seed, what, cure) for row in rows):
            continue
        run, figures = trained(what, cure, seed, folder, net)
        for sampler in SAMPLERS:
            image = np.concatenate(draw(what, run, net, sampler, seed, folder), axis=1)[..., ::-1]
            cv2.imwrite(str(drawn_file(folder, what, cure, sampler, seed)), image)
        rows.append({"trained": what, "cure": cure, "seed": seed, **{name: figures[name] for name in ERRORS}})
        with log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(rows[-1]) + "\n")
        print(rows[-1], flush=True)
        shutil.rmtree(run)
    found, text = table(rows, folder)
    RESULTS.joinpath("void_cures.json").write_text(json.dumps(found, indent=1) + "\n")
    RESULTS.joinpath("void_cures.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
