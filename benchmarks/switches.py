"""What each switch of speed and memory brings, with Stable Diffusion 1.5's shapes at 512 px, batch 1, on this machine.

    python -m benchmarks.switches [ROW ...] [--base FOLDER] [--work FOLDER]

Each row is train_texture.py in a process of its own, under the clock, everything cached and nothing held out: a first
step, then two more; it is killed before it saves. A row measured again replaces the old one.

Expected. Float32 weights take 3.4 GB, activations 3.6 GB, the process itself 0.6 GB. Full fine-tuning adds 3.4 GB of
gradients and for AdamW 6.9 GB of state, next to nothing for Adafactor; with `fused_backward_pass`
no two gradients are there at once. Checkpointed, activations are those of a block, and the forward pass is computed
twice: (1.72 + 0.81) / 1.72 = 1.5 times the operations under LoRA, (2.41 + 0.81) / 2.41 = 1.3 in full. bf16
halves weights and activations and, where the processor multiplies bf16, the time of products at best; but loading has
the file's 3.4 GB in sight as well.
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks import programs
from benchmarks.turns import Measured, Program, ProgramFailed, take_turns

RESULTS = Path(__file__).parent / "results"
RESOLUTION, TEXTURES, TURNS = 512, 2, 2


class Row(NamedTuple):
    """Settings of train_texture.py, and accelerate's precision."""

    settings: dict[str, str]
    mixed_precision: str = "no"


CHECKPOINTED = {"run.gradient_checkpointing": "true"}
FULL = {"model.train": "full", "optim.max_grad_norm": "null"}
IN_BACKWARD = FULL | {"optim.fused_backward_pass": "true"}
ADAFACTOR = {"optim.name": "adafactor"}
ROWS = {
    "LoRA": Row({}),
    "LoRA, checkpointed": Row(CHECKPOINTED),
    "LoRA, compiled": Row({"run.compile": "true"}),
    "LoRA, bf16": Row({}, "bf16"),
    "LoRA, bf16, checkpointed": Row(CHECKPOINTED, "bf16"),
    "full, AdamW": Row(FULL),
    "full, AdamW, in backward": Row(IN_BACKWARD),
    "full, Adafactor": Row(FULL | ADAFACTOR),
    "full, Adafactor, in backward": Row(IN_BACKWARD | ADAFACTOR),
    "full, Adafactor, in backward, checkpointed": Row(IN_BACKWARD | ADAFACTOR | CHECKPOINTED),
}


def measure(row: Row, load: programs.Workload, work: Path) -> Measured:
    """The row under the clock."""
    accelerate = ["--mixed_precision", row.mixed_precision]
    command = programs.texdiff(load, work / "run", work / "cache", accelerate=accelerate, options=row.settings)
    program = Program("texdiff", command, TURNS, environment=programs.ENVIRONMENT, to_the_end=False)
    return take_turns([program], work)["texdiff"]


def markdown(record: dict[str, Any]) -> str:
    """The table of a record."""
    versions = record["versions"]
    lines = [
        "# What the switches of speed and memory bring",
        "",
        f"`python -m benchmarks.switches`, {record['machine']}; Stable Diffusion 1.5's shapes, {RESOLUTION} px, batch "
        f"1, LoRA of rank {programs.RANK}; torch {versions['torch']}, diffusers {versions['diffusers']}. Median of "
        f"{TURNS} steps after the first; memory is the highest resident size, the mapped file of weights included.",
        "",
        "| | step, s | launch to end of first step, s | peak memory, GB |",
        "|---|---|---|---|",
    ]
    for name in ROWS:
        if row := record["rows"].get(name):
            lines.append(f"| {name} | {row['step']:.3g} | {row['first_step']:.1f} | {row['peak_memory'] / 1e9:.2f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"default: all of {'; '.join(ROWS)}")
    parser.add_argument("--base", type=Path, default=Path(tempfile.gettempdir()) / "texdiff-sd15-shapes")
    parser.add_argument("--work", type=Path, default=programs.WORK / "switches", help="folder to work in, emptied")
    given = parser.parse_args()
    if unknown := [name for name in given.rows if name not in ROWS]:
        parser.error(f"no such row: {unknown[0]}")
    work = given.work.resolve()
    base, dataset = programs.sd15(given.base), programs.fresh_dataset(work, TEXTURES, RESOLUTION)
    shutil.rmtree(dataset / "validation")
    load = programs.Workload(base=base, dataset=dataset, resolution=RESOLUTION, batch=1, steps=TURNS + 2)
    record: dict[str, Any] = {"machine": programs.machine(), "versions": programs.versions(), "rows": {}}
    file = RESULTS / "switches.json"
    if file.exists():
        before = json.loads(file.read_text("utf-8"))
        if all(before[key] == record[key] for key in ("machine", "versions")):
            record["rows"] = before["rows"]
    try:
        measure(ROWS["LoRA"], load, work)  # encodes the dataset, and brings the weights into the system's cache
        for name in given.rows or ROWS:
            print(f"{name}", flush=True)
            done = measure(ROWS[name], load, work)
            step, first = median(done.turns), done.first_step
            record["rows"][name] = {"step": step, "first_step": first, "peak_memory": done.peak_memory}
            file.write_text(json.dumps(record, indent=2) + "\n", "utf-8")
            file.with_suffix(".md").write_text(markdown(record), "utf-8")
    except ProgramFailed as error:
        sys.exit(str(error))
    print(markdown(record))


if __name__ == "__main__":
    main()
