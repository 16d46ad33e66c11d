"""What training on windows of atlases at their own size is worth: held-out error there, against squeezed atlases.

    python -m benchmarks.crops [--output outputs/crops-study] [--steps 100] [--seeds 3] [--dataset FOLDER --side 4096]

Atlases of 1,024 texels of texdiff's own making, a quarter of them held out, or those that `texdiff prepare` has made of
real meshes and has held out some of; on nano, which sees 256 pixels. Every arm
trains a LoRA by train_texture.py, with the same steps, seeds and batches; they differ in `data` alone:

    squeezed   every atlas brought to 256
    windows    windows of 256 at the atlases' own size
    both       windows and the squeezed atlas in turn

What each has learnt is measured on windows of the held-out atlases at their own size, and on these squeezed: masked
error, on the same noise and windows for all. What is there in OUTPUT is not done again.
"""

import argparse
import json
import shutil
import statistics
from pathlib import Path
from typing import Any

import torch

from benchmarks.programs import ROOT, python
from benchmarks.step import seen_cells
from texdiff.cli.train_arguments import parse_command_line
from texdiff.config import DataConfig, MaskConfig
from texdiff.data.cache.encode import encode_dataset
from texdiff.data.records import read_records
from texdiff.inference.sampler import load_pipeline
from texdiff.models.family import load_family
from texdiff.models.lora_files.load import add_lora
from texdiff.training.parallel import Parallel
from texdiff.training.run.stop_signals import StopSignals
from texdiff.training.validation import measure_held_out
from train_texture import train

SEEN, COUNT = 256, 16
ARMS: dict[str, list[int]] = {"squeezed": [], "windows": [1], "both": [1, 0]}  # data.scales of windows
MEASURED = {"at their own size": True, "squeezed": False}
SETTINGS = {
    "data.resolution": SEEN,
    "run.train_batch_size": 2,
    "optim.learning_rate": 1e-3,
    "validation.num_images": 0,
    "validation.every": 0,
    "run.report_to": "none",
    "run.keep_best": False,
}


def make_dataset(folder: Path, dataset: Path | None, side: int) -> Path:
    """The atlases as `texdiff prepare` leaves them."""
    if dataset is None and not (dataset := folder / "dataset").is_dir():
        python("-m", "texdiff.demo.make", str(folder / "meshes"), "--count", str(COUNT), "--size", str(side))
        prepare = ["prepare", str(folder / "meshes"), "--output", str(dataset)]
        python("-m", "texdiff.cli", *prepare, "--validation_fraction", "0.25")
    if not (folder / "training").is_dir():
        # Held-out losses of an arm's own kind say nothing beside the other's: training goes without.
        shutil.copytree(dataset / "train", folder / "training/train")
    return dataset


def train_arm(arm: str, seed: int, steps: int, folder: Path, side: int) -> Path:
    """The run's folder, trained where it is not finished, in this process: starting programs would take longer."""
    run = folder / f"{arm}-{seed}"
    if not (run / "pytorch_lora_weights.safetensors").exists():
        windows = {"data.source_resolution": side, "data.scales": ARMS[arm]} if ARMS[arm] else {}
        values = SETTINGS | windows | {"run.seed": seed, "run.max_train_steps": steps, "run.output_dir": run}
        values |= {"data.dataset": folder / "training", "data.cache_dir": folder / "cache"}
        flags = [text for name, value in values.items() for text in (f"--{name}", str(value))]
        config = parse_command_line(flags).config
        with StopSignals("auto") as stop:
            train(config, False, stop)
    return run


def measure(run: Path | None, dataset: Path, folder: Path, side: int) -> dict[str, float]:
    """Held-out masked errors, of the base where `run` is None."""
    family, parallel, pipeline = load_family("nano"), Parallel(cpu=True), load_pipeline("nano")
    if run is not None:
        add_lora(pipeline, run)
    unet, found = pipeline.unet.eval(), {}
    for name, in_windows in MEASURED.items():
        source = {"source_resolution": side} if in_windows else {}
        data = DataConfig(dataset=str(dataset), resolution=SEEN, cache_dir=str(folder / "cache"), **source)
        records = read_records(str(dataset), "validation")
        textures, _ = encode_dataset(data, MaskConfig(), family, records, [], parallel)
        with torch.no_grad():
            errors = measure_held_out(
                lambda noisy, t, conditioning: family.predict(unet, noisy, t, conditioning),
                family,
                textures,
                0,
                parallel.device,
                torch.float32,
                8,
            )
        found[name] = float(errors.figures()["validation_loss"] or 0)
    return found


def table(found: dict[str, Any]) -> str:
    """Means over seeds, their standard errors, and the difference from the squeezed arm, paired by seed."""
    lines = [f"| trained on | covered cells a step | {' | '.join(f'error, {name}' for name in MEASURED)} |"]
    lines.append("|---|---|" + "---|" * len(MEASURED))
    base = " | ".join(f"{found['base'][name]:.4f}" for name in MEASURED)
    lines.append(f"| nothing: the base | | {base} |")
    for arm in ARMS:
        rows = [found[key] for key in found if key.startswith(f"{arm}-")]
        if not rows:
            continue
        cells = []
        for name in MEASURED:
            values = [row[name] for row in rows]
            text = f"{statistics.mean(values):.4f}"
            if arm != "squeezed":
                other = [found[f"squeezed-{row['seed']}"][name] for row in rows]
                apart = [value / before - 1 for value, before in zip(values, other, strict=True)]
                spread = f" ± {statistics.stdev(apart) / len(apart) ** 0.5:.1%}" if len(apart) > 1 else ""
                text += f" ({statistics.mean(apart):+.1%}{spread})"
            cells.append(text)
        seen = statistics.mean(row["cells"] for row in rows)
        lines.append(f"| {arm} | {seen:.0f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "outputs" / "crops-study")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--dataset", type=Path, help="with train and validation (default: atlases of its own making)")
    parser.add_argument("--side", type=int, default=1024, help="texels of the largest atlas (default: %(default)s)")
    given = parser.parse_args()
    folder = given.output.resolve()
    dataset, results = make_dataset(folder, given.dataset, given.side), folder / "results.json"
    found = json.loads(results.read_text()) if results.exists() else {}
    if "base" not in found:
        found["base"] = measure(None, dataset, folder, given.side)
    for seed in range(given.seeds):
        for arm in given.arms:
            if (key := f"{arm}-{seed}") not in found:
                run = train_arm(arm, seed, given.steps, folder, given.side)
                found[key] = {
                    "seed": seed,
                    "cells": seen_cells(run, SETTINGS["run.train_batch_size"]),
                    **measure(run, dataset, folder, given.side),
                }
                results.write_text(json.dumps(found, indent=1))
                print(key, found[key], flush=True)
    print(table(found))


if __name__ == "__main__":
    main()
