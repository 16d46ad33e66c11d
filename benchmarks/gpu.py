"""Training speed on a GPU: images a second, model FLOP/s utilisation and peak memory, diffusers' script beside it.

    python -m benchmarks.gpu [--train lora full] [--compile off on] [--batches 1 4 16 32] [--base FOLDER] [--peer FILE]
    python -m benchmarks.gpu --try_on_cpu       # the same way on the embedded base: no measurement

Stable Diffusion 1.5's shapes at 512 px, bf16, cached textures; texdiff has no other family yet. Each row is a training
of its own under the clock: a first step, which compiles where asked to, then three turns of ten steps. Utilisation is
the floating-point operations of the model (benchmarks/floor.py) a second, of the GPU's dense bf16 peak by its data
sheet, or of the rate that a large matrix product reaches where that is not known here. A batch that does not fit is
named, and larger ones are left out. About half a minute a row. A row measured again replaces the old one, so the
table can be made in several calls.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks import programs
from benchmarks.turns import Measured, Program, ProgramFailed, take_turns

RESULTS = Path(__file__).parent / "results"
# Dense bf16 peaks by NVIDIA's data sheets, operations a second. The first name that is in the GPU's decides.
PEAKS = {"H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}


class Row(NamedTuple):
    """What is measured at once, and told apart in the table."""

    program: str  # texdiff | diffusers
    train: str  # lora | full
    compile: str  # off | on
    batch: int


class Turns(NamedTuple):
    """How long a row is measured."""

    number: int
    steps: int


def wanted(train: list[str], compiled: list[str], batches: list[int], peer: bool) -> Iterator[list[Row]]:
    """Rows that differ in their batch alone, smallest first."""
    for what in train:
        for how in compiled:
            yield [Row("texdiff", what, how, batch) for batch in sorted(batches)]
    if peer and "lora" in train and "off" in compiled:
        yield [Row("diffusers", "lora", "off", batch) for batch in sorted(batches)]


def measure(row: Row, load: programs.Workload, peer: Path | None, turns: Turns, work: Path) -> Measured:
    """The row under the clock; `load` is the same for all but for its batch and steps."""
    load = replace(load, batch=row.batch, steps=1 + turns.number * turns.steps)
    accelerate = ["--mixed_precision", "bf16"]
    if row.program == "texdiff":
        options = {"model.train": row.train, "run.compile": str(row.compile == "on").lower()}
        command = programs.texdiff(load, work / "run", work / "cache", accelerate=accelerate, options=options)
    else:
        assert peer
        command = programs.diffusers_script(peer, load, work / "peer", accelerate=accelerate)
    program = Program(
        row.program, command, turns.number, turns.steps, environment=programs.ENVIRONMENT, to_the_end=False
    )
    return take_turns([program], work)[row.program]


def write(record: dict[str, Any], row: Row, measured: Measured | None, flops: float, folder: Path) -> None:
    """Put the row's figures into the record in place of older ones, and the record into `folder`. None: out of memory.

    `flops` are the operations of a step with one image.
    """
    figures: dict[str, Any] = row._asdict() | {"out_of_memory": measured is None}
    if measured:
        step = median(measured.turns)
        figures |= {"step": step, "first_step": measured.first_step, "images_per_second": row.batch / step}
        figures["utilisation"] = flops * row.batch / step / record["peak"]
        figures["peak_gpu_memory"] = measured.peak_gpu_memory
    others = [old for old in record["rows"] if Row(*(old[key] for key in Row._fields)) != row]
    record["rows"] = sorted([*others, figures], key=lambda one: [one[key] for key in Row._fields])
    (folder / "gpu.json").write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    (folder / "gpu.md").write_text(markdown(record), "utf-8")


def markdown(record: dict[str, Any]) -> str:
    """The table of a record."""
    lines = [
        "# Training on a GPU",
        "",
        f"`python -m benchmarks.gpu`, {record['device']}; {record['title']}, bf16; torch "
        f"{record['versions']['torch']}, diffusers {record['versions']['diffusers']}. Utilisation is of "
        f"{record['peak'] / 1e12:.3g}e12 operations a second, {record['peak_from']}.",
        "",
        "| | train | compile | batch | images/s | utilisation | step, s | first step, s | peak GPU memory, GB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in record["rows"]:
        names = f"| {row['program']} | {row['train']} | {row['compile']} | {row['batch']} |"
        if row["out_of_memory"]:
            lines.append(f"{names} out of memory | | | | |")
            continue
        memory = f"{row['peak_gpu_memory'] / 1e9:.2f}" if row["peak_gpu_memory"] else "no GPU"
        lines.append(
            f"{names} {row['images_per_second']:.4g} | {row['utilisation']:.1%} | {row['step']:.4g} "
            f"| {row['first_step']:.1f} | {memory} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", nargs="+", choices=["lora", "full"], default=["lora", "full"])
    parser.add_argument("--compile", nargs="+", choices=["off", "on"], default=["off", "on"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4, 16, 32])
    parser.add_argument("--base", type=Path, default=Path(tempfile.gettempdir()) / "texdiff-sd15-shapes")
    parser.add_argument("--peer", type=Path, default=programs.WORK / "train_text_to_image_lora.py")
    parser.add_argument("--work", type=Path, default=programs.WORK / "gpu", help="folder to work in")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for gpu.json and gpu.md")
    parser.add_argument("--try_on_cpu", action="store_true", help="go the whole way on the embedded base")
    given = parser.parse_args()
    ask = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else '')"
    device, trial = programs.python("-c", ask).strip(), given.try_on_cpu
    if not device and not trial:
        sys.exit("benchmarks.gpu: PyTorch finds no GPU here; --try_on_cpu goes the same way without measuring")

    # What is measured, and against what.
    peer, work = programs.peer_script(given.peer), given.work.resolve()
    output = work if trial else given.output
    output.mkdir(parents=True, exist_ok=True)
    resolution, turns = (64, Turns(1, 2)) if trial else (512, Turns(3, 10))
    base, title = (programs.nano(), "nano") if trial else (programs.sd15(given.base), "Stable Diffusion 1.5's shapes")
    dataset = programs.fresh_dataset(work, max(given.batches), resolution)
    load = programs.Workload(base=base, dataset=dataset, resolution=resolution, batch=1, steps=1)
    floors = {train: programs.floor(load, rank, "bfloat16") for train, rank in (("lora", programs.RANK), ("full", 0))}
    known = next((peak for name, peak in PEAKS.items() if name in device), None)
    record: dict[str, Any] = {
        "device": device or programs.machine(),
        "title": f"{title}, {resolution} px",
        "peak": known or floors["lora"]["flops_per_second"],
        "peak_from": "by the data sheet" if known else "as measured on a matrix product",
        "versions": programs.versions(),
        "rows": [],
    }
    if (output / "gpu.json").exists():
        before = json.loads((output / "gpu.json").read_text("utf-8"))
        same = all(before[key] == record[key] for key in ("device", "title", "versions"))
        record["rows"] = before["rows"] if same else []

    # The first run encodes the dataset, so that every row finds it cached.
    measure(Row("texdiff", "lora", "off", 1), load, peer, Turns(1, 1), work)
    for rows in wanted(given.train, given.compile, given.batches, peer is not None):
        for row in rows:
            try:
                measured = measure(row, load, peer, turns, work)
            except ProgramFailed as error:
                if "out of memory" not in str(error):
                    sys.exit(str(error))
                measured = None
            write(record, row, measured, floors[row.train]["flops"], output)
            if not measured:
                break
    print(markdown(record))


if __name__ == "__main__":
    main()
