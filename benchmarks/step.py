"""A training step of texdiff beside the bare U-Net and diffusers' script: time, memory, start, and what it is made of.

    python -m benchmarks.step [nano | sd15 | all] [--base FOLDER] [--peer FILE] [--memory GB] [--work FOLDER]

Each program is a process of its own, on one machine, base, dataset and seed. They take turns step by step (`clock.py`,
`turns.py`), as many at once as memory holds, so that a busy moment meets all of them. A step counts from the end of one
optimiser step to the end of the next; the first one warms up and is left out. Both trainers are started by
`accelerate launch`, as their documentation says.

The floor of a step with Stable Diffusion 1.5's shapes (512 px, batch 1, LoRA of rank 8, float32), by calculation:

- 1.72e12 operations: 0.81e12 forward (convolutions 0.44, linear layers 0.24, attention 0.13), 0.91e12 backward. LoRA
  saves the gradients of frozen weights; the whole U-Net takes 2.41e12. Two cores that reach 110e9 a second together
  need 15.6 s. The benchmark measures the rate at which the machine multiplies matrices, and says what follows from it.
- Memory traffic: 3.4 GB of weights read forward and again backward, and about 3.6 GB of activations written and read
  again: 14 GB, less than a second. AdamW on 1.6 million adapter weights moves 0.05 GB. So arithmetic decides.
- Peak memory: 3.4 GB of weights and 3.6 GB of activations, 7.1 GB.
- nano at 256 px and batch 4: 0.0147e12 operations, 0.13 s at the same rate; what surrounds the U-Net shows most here.

Expected: a trainer that reads latents from a cache adds next to nothing, within 1.03 of the bare step. diffusers'
script encodes the picture again at every step: 1.12e12 operations of the VAE more, 10 s.

What is measured takes its part's place in benchmarks/results/step.json and step.md; without diffusers' script in those
of the folder that it works in.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import programs
from benchmarks.step_table import markdown
from benchmarks.turns import Program, ProgramFailed, take_turns
from texdiff.data.records import read_records

RESULTS = Path(__file__).parent / "results"
THREADS = int(programs.ENVIRONMENT["OMP_NUM_THREADS"])
CELL = 8  # pixels along a side of a latent cell
BARE, CACHED, FIRST, UNCACHED, PEER = "bare", "texdiff", "texdiff-first-run", "texdiff-uncached", "diffusers"
WINDOWS, ATLASES, LARGER = "texdiff-windows", 6, 4  # windows of so many atlases, so many times as large each way


@dataclass(frozen=True)
class Part:
    """One base at one size."""

    title: str
    resolution: int
    batch: int
    textures: int
    turns: int
    turn_steps: int
    memory: float  # GB that one program takes at most, for how many are started at once
    uncached: bool  # also train with everything encoded anew at every step
    windows: bool  # also train on windows of larger atlases


PARTS = {
    "nano": Part("nano, the embedded base", 256, 4, 28, 5, 8, 1.5, True, True),
    "sd15": Part("Stable Diffusion 1.5's shapes", 512, 1, 2, 5, 1, 8.5, False, False),
}


def measure(name: str, part: Part, base: str, peer: Path | None, memory: float, work: Path) -> dict[str, Any]:
    """Everything about one part, as plain values; `work` is its folder, deleted first."""
    shutil.rmtree(work, ignore_errors=True)
    say(f"{name}: dataset")
    dataset = programs.fresh_dataset(work, part.textures, part.resolution)
    steps = 1 + part.turns * part.turn_steps
    load = programs.Workload(base=base, dataset=dataset, resolution=part.resolution, batch=part.batch, steps=steps)
    floor = programs.floor(load)

    # The first run finds nothing cached. It is short, and the profile is taken of it, so that no other run is slowed.
    say(f"{name}: first run, {part.textures} textures to encode, and profile")
    first = programs.texdiff(replace(load, steps=3), work / "first", work / "cache")
    measured = take_turns([Program(FIRST, first, turns=2, profile=True, environment=programs.ENVIRONMENT)], work)

    commands = {BARE: programs.bare(load), CACHED: programs.texdiff(load, work / "run", work / "cache")}
    if part.windows:
        atlases = programs.fresh_dataset(work / "atlases", ATLASES, LARGER * part.resolution, held_out=False)
        options = {"data.source_resolution": LARGER * part.resolution}
        larger = replace(load, dataset=atlases)
        commands[WINDOWS] = programs.texdiff(larger, work / "windows", work / "cache", options=options)
    if part.uncached:
        commands[UNCACHED] = programs.texdiff(load, work / "uncached", work / "none", options={"data.cache": "off"})
    if peer:
        commands[PEER] = programs.diffusers_script(peer, load, work / "peer")
    together = [
        Program(n, c, part.turns, part.turn_steps, environment=programs.ENVIRONMENT) for n, c in commands.items()
    ]
    for group in fitting(together, max(1, int(memory // part.memory))):
        say(f"{name}: {', '.join(program.name for program in group)}")
        measured |= take_turns(group, work)
    # What a step learns of: all programs see the same textures, but for the one that sees windows.
    covered = dict.fromkeys(measured, part.batch * covered_cells(dataset, part.resolution))
    if part.windows:
        covered[WINDOWS] = seen_cells(work / "windows", part.batch)
    return {
        **asdict(part),
        "steps": steps,
        "covered_cells": covered,
        "floor": floor,
        "programs": {name: asdict(result) for name, result in measured.items()},
    }


def covered_cells(dataset: Path, resolution: int) -> float:
    """Latent cells with covered texels of a texture at this size, on average."""
    counts = []
    for record in read_records(str(dataset), "train"):
        _, mask = record.model_input(resolution, "keep")
        side = resolution // CELL
        counts.append(mask.reshape(side, CELL, side, CELL).any(axis=(1, 3)).sum())
    return float(np.mean(counts))


def seen_cells(run: Path, batch: int) -> float:
    """The same of a run's steps, as it says itself."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    steps = [line for line in lines if "loss" in line]
    return float(np.mean([batch * line["covered_cells_per_second"] / line["images_per_second"] for line in steps]))


def fitting(together: Sequence[Program], most: int) -> Iterator[Sequence[Program]]:
    """The programs in groups of `most`, which take turns within."""
    for start in range(0, len(together), most):
        yield together[start : start + most]


def available_memory() -> float:
    """GB that programs can have now without others losing theirs."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) / 2**20


def busy_seconds() -> float:
    """Seconds of all cores since the system started in which something ran, here or in a guest beside."""
    user, nice, system, _idle, _wait, *others = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:9])
    return (user + nice + system + sum(others)) / os.sysconf("SC_CLK_TCK")


def say(what: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {what}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=[*PARTS, "all"], default="all")
    parser.add_argument(
        "--base",
        type=Path,
        default=Path(tempfile.gettempdir()) / "texdiff-sd15-shapes",
        help="folder of benchmarks/true_size.py; made where it is not there (default: %(default)s)",
    )
    parser.add_argument(
        "--peer",
        type=Path,
        default=programs.WORK / "train_text_to_image_lora.py",
        help="examples/text_to_image/train_text_to_image_lora.py of the diffusers repository (default: %(default)s)",
    )
    parser.add_argument("--work", type=Path, default=programs.WORK, help="folder to work in (default: %(default)s)")
    parser.add_argument("--memory", type=float, help="GB to use; default: what is available")
    given = parser.parse_args()
    peer, work = programs.peer_script(given.peer), given.work.resolve()
    names = list(PARTS) if given.part == "all" else [given.part]
    bases = {"nano": programs.nano, "sd15": lambda: programs.sd15(given.base)}
    results = RESULTS if peer else work
    results.mkdir(parents=True, exist_ok=True)
    for name in names:
        start, busy, load = time.monotonic(), busy_seconds(), os.getloadavg()[0]
        own = sum(os.times()[:4])  # of this process and those that it waited for
        try:
            memory = given.memory or available_memory() - 1
            part = measure(name, PARTS[name], bases[name](), peer, memory, work / name)
        except ProgramFailed as error:
            sys.exit(str(error))
        seconds = time.monotonic() - start
        others = max(0.0, busy_seconds() - busy - sum(os.times()[:4]) + own) / seconds / (os.cpu_count() or 1)
        part |= {
            "seconds": round(seconds),
            "load_average_before": round(load, 1),
            "share_of_cores_used_by_others": round(others, 3),
        }
        write(results, name, part)
    print((results / "step.md").read_text("utf-8"))


def write(results: Path, name: str, part: dict[str, Any]) -> None:
    """Put a part in its place, beside the others where they were measured on this machine with the same libraries."""
    file, about = results / "step.json", {"machine": programs.machine(), "threads": THREADS}
    about |= {"versions": programs.versions()}
    before = json.loads(file.read_text("utf-8")) if file.exists() else {}
    parts = before["parts"] if {key: before.get(key) for key in about} == about else {}
    parts |= {name: part}
    record = about | {"parts": {name: parts[name] for name in PARTS if name in parts}}
    file.write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    (results / "step.md").write_text(markdown(record), "utf-8")


if __name__ == "__main__":
    main()
