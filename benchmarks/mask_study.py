"""Does the mask help? The same fine-tuning with one choice changed at a time, judged alike, over several seeds.

    python -m benchmarks.mask_study MESHES [--seeds 3] [--steps 200] [--jobs 2]

MESHES is a folder of real ones. Of the textures that `texdiff prepare` makes of it, those covered to 15 to 90 % are
taken, a third of them held out. Every arm trains a LoRA on nano; what it reaches is judged on the held-out atlases
by one yardstick, whatever the arm itself was trained on: the error of the predicted noise in latent cells that lie
wholly inside the mask, the void filled, on fixed noise over a fixed grid of timesteps; and KID, inside the mask,
between atlases drawn from the held-out captions and the held-out atlases. Stopped and started again it goes on.
Writes benchmarks/results/mask_study.json, .md and .svg.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.coverage import processor
from benchmarks.curves import draw_curves

OUT = Path("outputs/mask_study")
RESULTS = Path(__file__).parent / "results"
ARMS: dict[str, list[str]] = {
    "masked": [],
    "unmasked": ["--mask.unmasked_weight", "1"],
    "unmasked, void kept": ["--mask.unmasked_weight", "1", "--data.background", "keep"],
    "masked, void kept": ["--data.background", "keep"],
    "area": ["--mask.downsample", "area"],
    "sample": ["--mask.reduction", "sample"],
}
"""Each changes the first, which is the default: void filled, nearest, texel."""
EVERY = 50  # steps from one measurement to the next
PICTURES, STEPS, GUIDANCE = 32, 16, 2.5
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # Student's t, two-sided 95 %, by the number of seeds


def make_dataset(meshes: Path) -> Path:
    """The dataset of the study, in OUT, made where it is not there yet."""
    dataset = OUT / "dataset"
    if not dataset.exists():
        whole = OUT / "whole"
        program = [sys.executable, "-m", "texdiff.cli", "prepare", str(meshes), "--output", str(whole)]
        program[1:3] = ["-c", "import sys; from texdiff.cli import main; sys.exit(main(sys.argv[1:]))"]
        subprocess.run([*program, "--validation_fraction", "0.33"], check=True)
        for part in ("train", "validation"):
            metadata = whole / part / "metadata.jsonl"
            lines = metadata.read_text("utf-8").splitlines()
            kept = [line for line in lines if 0.15 <= json.loads(line)["coverage"] <= 0.9]
            metadata.write_text("".join(line + "\n" for line in kept), "utf-8")
            print(f"{part}: {len(kept)} of {len(lines)} textures")
        whole.rename(dataset)
    return dataset


def run_arm(arm: str, seed: int, dataset: Path, steps: int) -> dict[str, Any]:
    """Train and judge one arm with one seed; {"error": {step: value}, "kid": value}."""
    folder = OUT / f"{arm.replace(', ', '-').replace(' ', '_')}-{seed}"
    result = folder / "study.json"
    if not result.exists():
        log = (OUT / f"{folder.name}.log").open("w")
        settings = {
            "data.dataset": dataset,
            "data.resolution": 256,
            "lora.rank": 16,
            "optim.learning_rate": 1e-3,
            "run.output_dir": folder,
            "run.seed": seed,
            "run.max_train_steps": steps,
            "run.checkpointing_steps": EVERY,
            "run.checkpoints_total_limit": 100,
            "run.report_to": "none",
            "validation.every": 0,
            "validation.num_images": 0,
        }
        flags = [part for key, value in settings.items() for part in (f"--{key}", str(value))]
        subprocess.run([sys.executable, "train_texture.py", *flags, *ARMS[arm]], check=True, stdout=log, stderr=log)
        judge = [sys.executable, "-m", "benchmarks.mask_study_judge", str(folder), str(dataset)]
        subprocess.run([*judge, str(PICTURES), str(STEPS), str(GUIDANCE)], check=True, stdout=log, stderr=log)
        shutil.rmtree(folder / "checkpoints")
    print(f"{folder.name}: {result.read_text().strip()}", flush=True)
    return json.loads(result.read_text())


def interval(values: list[float]) -> str:
    """Mean and half the width of its 95 % confidence interval over the seeds (Student's t)."""
    spread = statistics.stdev(values) if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):.4f} ± {T_95.get(len(values), 2.0) * spread / len(values) ** 0.5:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("meshes", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=2, help="arms at a time")
    given = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    dataset = make_dataset(given.meshes)
    with ThreadPoolExecutor(given.jobs) as pool:
        # Seeds first, so that a study that is cut short has compared every arm.
        jobs = {(arm, seed): (arm, seed, dataset, given.steps) for seed in range(given.seeds) for arm in ARMS}
        done = dict(zip(jobs, pool.map(lambda job: run_arm(*job), jobs.values()), strict=True))
    rows = ["| arm | error inside | difference to masked | KID | difference to masked |", "|---|---|---|---|---|"]
    curves, table = {}, {}
    last = str(given.steps)
    for arm in ARMS:
        mine = [done[arm, seed] for seed in range(given.seeds)]
        first = [done["masked", seed] for seed in range(given.seeds)]
        errors = [one["error"] for one in mine]
        # Every arm of a seed sees the same samples and noise, so differences are taken seed by seed.
        cells = [interval([e[last] for e in errors])]
        cells.append(interval([a["error"][last] - b["error"][last] for a, b in zip(mine, first, strict=True)]))
        cells.append(interval([one["kid"] for one in mine]))
        cells.append(interval([a["kid"] - b["kid"] for a, b in zip(mine, first, strict=True)]))
        rows.append(f"| {arm} | " + " | ".join(cells if arm != "masked" else [cells[0], "", cells[2], ""]) + " |")
        table[arm] = mine
        steps = sorted(int(step) for step in errors[0])
        curves[arm] = [(s, float(np.mean([e[str(s)] for e in errors]))) for s in steps if s]
    base = done["masked", 0]["error"]["0"]
    machine = f"{processor()}; {given.seeds} seeds, {given.steps} steps"
    text = f"{machine}. nano itself: error inside {base:.4f}. ± is the 95 % interval over the seeds (Student's t).\n\n"
    RESULTS.joinpath("mask_study.md").write_text(text + "\n".join(rows) + "\n")
    RESULTS.joinpath("mask_study.json").write_text(json.dumps({"base": base, "arms": table}, indent=1) + "\n")
    RESULTS.joinpath("mask_study.svg").write_text(draw_curves(curves, "step", "error inside the mask, held out"))
    print(text + "\n".join(rows))


if __name__ == "__main__":
    main()
