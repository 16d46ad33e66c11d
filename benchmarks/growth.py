"""What a dataset's size costs: start-up, memory and steps of a cached run, with 1,000 textures and with 100,000.

    python -m benchmarks.growth [--sizes 1000 100000] [--rounds 3] [--work FOLDER]

Textures are tiny pictures, no two alike, and each has a caption of its own, up to 100,000 of them. Their cache entries
are noise of the right shapes, since to encode them is not what is measured; from then on everything is as a user has
it: train_texture.py on the embedded base, whose start looks at every file and finds every entry. Each round starts the
sizes one after another, and then they take turns with their steps. Takes some minutes, and 3 GB for 100,000 textures;
for a million half an hour and 12 GB.
"""

import argparse
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
from PIL import Image

from benchmarks import programs
from benchmarks.turns import Measured, Program, take_turns

RESULTS = Path(__file__).parent / "results"
RESOLUTION, SIDE, MASKS = 64, 16, 8  # pixels of the model's pictures and of the files; different masks
CAPTIONS, LINKS = 100_000, 10_000  # different captions at most; names of one file, of which file systems have limits
TURNS, STEPS = 5, 10
LATENTS = (4, 8, 8)


def make_dataset(folder: Path, count: int) -> Path:
    """`count` textures to train on and two held out, as `texdiff prepare` lays them out."""
    shutil.rmtree(folder, ignore_errors=True)
    rng = np.random.default_rng(0)
    for split, number in (("train", count), ("validation", 2)):
        for kind in ("textures", "masks"):
            (folder / split / kind).mkdir(parents=True)
        shared: dict[int, Path] = {}
        with (folder / split / "metadata.jsonl").open("w", encoding="utf-8") as lines:
            for index in range(number):
                texture = np.repeat(rng.integers(0, 256, (1, 1, 3), dtype=np.uint8), SIDE**2, axis=0)
                texture[:4, 0, 0] = np.frombuffer(index.to_bytes(4, "big"), np.uint8)  # no two alike
                name = f"{index:06d}.png"
                Image.fromarray(texture.reshape(SIDE, SIDE, 3)).save(folder / split / "textures" / name)
                if index % (MASKS * LINKS) < MASKS:
                    _mask(index % MASKS).save(folder / split / "masks" / name)
                    shared[index % MASKS] = folder / split / "masks" / name
                else:
                    os.link(shared[index % MASKS], folder / split / "masks" / name)
                row = {
                    "file_name": f"textures/{name}",
                    "mask_file_name": f"masks/{name}",
                    "text": f"a texture of number {index % CAPTIONS} in {split}",
                    "asset_id": f"{split}-{index}",
                    "license": "CC0-1.0",
                    "coverage": (index % MASKS + 1) / MASKS,
                }
                lines.write(json.dumps(row) + "\n")
    return folder


def _mask(number: int) -> Image.Image:
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[: SIDE * (number + 1) // MASKS] = 255
    return Image.fromarray(mask)


def fill_cache(dataset: Path, cache: Path) -> None:
    """Entries of noise for the whole dataset, by the trainer's own way but for the encoders."""

    from texdiff.config import DataConfig, MaskConfig
    from texdiff.data.cache.encode import encode_dataset
    from texdiff.data.records import read_records
    from texdiff.models.base import load_base
    from texdiff.models.stable_diffusion import StableDiffusion
    from texdiff.training.parallel import Parallel

    rng = np.random.default_rng(0)
    base = load_base("nano")
    width = base.text_encoder.config.hidden_size

    def textures(records: Sequence[Any], *_: Any, **setting: Any) -> Iterator[dict[str, Any]]:
        for index, _ in enumerate(records):
            mask = np.zeros((RESOLUTION, RESOLUTION // 8), np.uint8)
            mask[: RESOLUTION * (index % MASKS + 1) // MASKS] = 255
            mean, std = rng.standard_normal((2, *LATENTS), np.float32)
            yield {"mean": mean, "std": np.abs(std), "mask": mask, "variation": np.ones(2, np.float32)}

    def captions(texts: Sequence[str], *_: Any) -> Iterator[dict[str, Any]]:
        for _ in texts:
            yield {"text": rng.standard_normal((77, width), np.float32)}

    data = DataConfig(dataset=str(dataset), resolution=RESOLUTION, cache_dir=str(cache))
    splits = (read_records(str(dataset), split) for split in ("train", "validation"))
    with (
        patch("texdiff.data.cache.encoders.encode_textures", textures),
        patch("texdiff.data.cache.encoders.encode_captions", captions),
    ):
        encode_dataset(data, MaskConfig(), StableDiffusion(base), *splits, Parallel(cpu=True))


def measure(sizes: list[int], rounds: int, work: Path) -> dict[int, list[Measured]]:
    """Every size's runs, one of each round."""
    prepared = {}
    for size in sizes:
        print(f"{size} textures: writing them and their entries", flush=True)
        prepared[size] = make_dataset(work / f"dataset-{size}", size)
        program = "import sys; from pathlib import Path; from benchmarks.growth import fill_cache; "
        programs.python("-c", program + f"fill_cache(Path({str(prepared[size])!r}), Path({str(work / 'cache')!r}))")
    found: dict[int, list[Measured]] = {size: [] for size in sizes}
    for number in range(rounds):
        # Each time another one first, so that what the machine does meanwhile is nobody's advantage.
        order = sizes[number % len(sizes) :] + sizes[: number % len(sizes)]
        trainings = []
        for size in order:
            steps = 1 + TURNS * STEPS
            load = programs.Workload(base="nano", dataset=prepared[size], resolution=RESOLUTION, batch=4, steps=steps)
            options = {"validation.every": 0, "run.report_to": "none"}
            command = programs.texdiff(load, work / f"run-{size}", work / "cache", options=options)
            trainings.append(Program(str(size), command, TURNS, STEPS, environment=programs.ENVIRONMENT))
        for name, measured in take_turns(trainings, work).items():
            found[int(name)].append(measured)
            print(f"{name}: first step {measured.first_step:.1f} s, step {median(measured.turns):.4f} s", flush=True)
    return found


def table(found: dict[int, list[Measured]], rounds: int) -> str:
    """Best of the rounds for start-up, median of all turns for steps, highest memory."""
    lines = [
        "# Growth",
        "",
        f"`python -m benchmarks.growth`, {programs.machine()}, load average {os.getloadavg()[0]:.1f}; the embedded "
        f"base, {RESOLUTION} px, batch 4, everything cached. First step: seconds from `accelerate launch` to its end, "
        f"best of {rounds} (all). Step: median of {rounds} x {TURNS} turns of {STEPS}.",
        "",
        "| textures | first step, s | peak memory, MB | step, ms |",
        "|---|---|---|---|",
    ]
    for size, runs in found.items():
        starts = sorted(run.first_step for run in runs)
        step = median(turn for run in runs for turn in run.turns)
        memory = max(run.peak_memory for run in runs) / 2**20
        every = ", ".join(f"{start:.1f}" for start in starts)
        lines.append(f"| {size:,} | {starts[0]:.1f} ({every}) | {memory:.0f} | {1000 * step:.0f} |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 100_000], help="numbers of textures")
    parser.add_argument("--rounds", type=int, default=3, help="starts of each size")
    parser.add_argument("--work", type=Path, default=programs.WORK / "growth", help="folder, emptied")
    given = parser.parse_args()
    shutil.rmtree(given.work, ignore_errors=True)
    found = measure(given.sizes, given.rounds, given.work)
    record = {
        "machine": programs.machine(),
        "versions": programs.versions(),
        "sizes": {str(size): [asdict(run) for run in runs] for size, runs in found.items()},
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "growth.json").write_text(json.dumps(record, indent=1) + "\n")
    (RESULTS / "growth.md").write_text(text := table(found, given.rounds))
    print(text)


if __name__ == "__main__":
    main()
