"""Training speed on a GPU: images a second, utilisation and peak memory, the bare step and diffusers' script beside it.

    python -m benchmarks.gpu [--seconds 480] [--output FOLDER] [--base FOLDER] [--peer FILE]
    python -m benchmarks.gpu --shapes sdxl      # the same, without diffusers' script, to gpu_sdxl.md
    python -m benchmarks.gpu --try_on_cpu       # the same way on the embedded base: no measurement

Stable Diffusion 1.5's shapes at 512 px or XL's at 1,024 px, bf16, cached textures. Each row is a program
of its own under the clock: warm-up steps, which compile where asked to, then three turns of steps; it is ended before
it saves anything. While one row is measured the next program waits with its libraries loaded, so that no time goes
into that; accelerate's launcher, which sets environment variables and nothing else here, is left out for the same
reason. Rows come in the order of their worth, each is written as soon as it is there, and none is begun after
`--seconds`. A row measured again replaces the old one.

Utilisation is the floating-point operations of the model (benchmarks/floor.py) a second, of the GPU's dense bf16 peak
by its data sheet and of the rate that a large matrix product reaches. A batch that does not fit is named, and larger
ones are left out.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks import programs
from benchmarks.gpu_table import table

RESULTS = Path(__file__).parent / "results"
# Dense bf16 peaks by NVIDIA's data sheets, operations a second. The first name that is in the GPU's decides.
PEAKS = {"H200": 989e12, "H100 NVL": 835e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12}
PEAKS |= {"L40S": 362e12, "L4": 121e12}
SWITCHES = {
    "none": {"cuda_graphs": "false"},
    "graphs": {},  # as it is where nothing is said
    "compile": {"compile": "true"},
    "graphs, low precision": {"low_precision_norms": "true", "low_precision_adapters": "true"},
}
# What makes a base of these shapes, its name in the table, and the side of its textures.
SHAPES = {
    "sd15": (programs.sd15, "Stable Diffusion 1.5's shapes", 512),
    "sdxl": (programs.sdxl, "Stable Diffusion XL's shapes", 1024),
}
ROW_SECONDS = 150.0  # a row that takes longer than that is stuck
POLL_SECONDS = 0.05


class Row(NamedTuple):
    """What is measured at once, and told apart in the table."""

    program: str  # bare | texdiff | diffusers
    train: str  # lora | full
    switch: str  # of SWITCHES
    batch: int


class Turns(NamedTuple):
    """How long a row is measured."""

    warm_up: int
    number: int
    steps: int

    @property
    def all_steps(self) -> int:
        return self.warm_up + self.number * self.steps


def wanted(batches: list[int], peer: bool, compiled: bool) -> list[Row]:
    """All rows, those that say most first."""
    adapters = [("bare", "lora", "none"), ("texdiff", "lora", "graphs")]
    whole = [("texdiff", "full", "graphs")]
    peers = [("diffusers", "lora", "none")] * peer  # as long as all of the above
    others = [("texdiff", "lora", "none")]
    others += [("texdiff", train, "graphs, low precision") for train in ("lora", "full")]
    last = [("texdiff", "lora", "compile"), ("texdiff", "full", "compile")] * compiled
    groups = (adapters, whole, peers, others, last)
    return [Row(*kind, batch) for group in groups for batch in batches for kind in group]


class StandBy:
    """A row's program, waiting with its libraries loaded until it is told to go."""

    def __init__(self, row: Row, load: programs.Workload, peer: Path | None, turns: Turns, work: Path) -> None:
        self.row, self.turns = row, turns
        self.folder = work / "-".join(str(part).replace(", ", "-").replace(" ", "-") for part in row)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.report, self.log = self.folder / "clock.jsonl", self.folder / "log"
        self.report.unlink(missing_ok=True)
        load = replace(load, batch=row.batch, steps=turns.all_steps + 1)
        clock = ["--report", str(self.report), "--stand_by", "--warm_up", str(turns.warm_up)]
        clock += ["--turns", str(turns.number), "--turn_steps", str(turns.steps)]
        if row.program == "bare":
            command = programs.bare(load, dtype="bfloat16")(clock)
        elif row.program == "texdiff":
            options = {"model.train": row.train} | {f"run.{key}": value for key, value in SWITCHES[row.switch].items()}
            command = programs.texdiff(load, self.folder / "run", work / "cache", accelerate=None, options=options)(
                clock
            )
        else:
            assert peer
            command = programs.diffusers_script(peer, load, self.folder / "peer", accelerate=None)(clock)
        environment = os.environ | programs.ENVIRONMENT | {"ACCELERATE_MIXED_PRECISION": "bf16"}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment, cwd=programs.ROOT
            )

    def measure(self) -> dict[str, Any]:
        """Let it go, and end it after its last turn. Returns the row's figures, or how it failed."""
        started = time.monotonic()
        assert self.process.stdin
        try:
            with suppress(BrokenPipeError):  # it has ended already; its log says why
                self.process.stdin.write(b"\n")
                self.process.stdin.flush()
            while self.process.poll() is None and len(self._lines()) <= self.turns.number:
                if time.monotonic() - started > ROW_SECONDS:
                    break
                time.sleep(POLL_SECONDS)
        finally:
            self.end()
        lines = self._lines()
        if len(lines) <= self.turns.number:
            log = self.log.read_text(errors="replace")
            if "out of memory" in log.lower():
                return {"failed": "out of memory"}
            tail = " ".join(log.split())[-300:]
            return {"failed": f"no figures after {time.monotonic() - started:.0f} s: {tail}"}
        step = median(line["seconds"] / self.turns.steps for line in lines[1:])
        return {
            "step": step,
            "ready": lines[0]["seconds"],
            "images_per_second": self.row.batch / step,
            "peak_gpu_memory": lines[-1].get("peak_gpu_memory"),
        }

    def end(self) -> None:
        """Kill it, if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def _lines(self) -> list[dict[str, Any]]:
        text = self.report.read_text("utf-8") if self.report.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


class Record:
    """The table, on disk after every row."""

    def __init__(self, folder: Path, about: dict[str, Any], flops: dict[str, float], name: str = "gpu") -> None:
        self.folder, self.flops, self.name = folder, flops, name
        self.content: dict[str, Any] = about | {"rows": []}
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / f"{name}.json").exists():
            before = json.loads((folder / f"{name}.json").read_text("utf-8"))
            if all(before.get(key) == about[key] for key in ("device", "title", "versions")):
                self.content["rows"] = before["rows"]

    def write(self, row: Row, figures: dict[str, Any]) -> None:
        """Put the row in, in the place of an older one."""
        if "step" in figures:
            rate = self.flops[row.train] * row.batch / figures["step"]
            figures["of_data_sheet"] = rate / self.content["peak"] if self.content["peak"] else None
            figures["of_measured"] = rate / self.content["measured_peak"]
        others = [old for old in self.content["rows"] if Row(*(old[key] for key in Row._fields)) != row]
        rows = [*others, row._asdict() | figures]
        self.content["rows"] = sorted(
            rows, key=lambda one: [one[key] for key in ("train", "switch", "batch", "program")]
        )
        (self.folder / f"{self.name}.json").write_text(json.dumps(self.content, indent=1) + "\n", "utf-8")
        (self.folder / f"{self.name}.md").write_text(markdown(self.content), "utf-8")


def markdown(record: dict[str, Any]) -> str:
    """The table of a record."""
    versions = record["versions"]
    sheet = (
        f"{record['peak'] / 1e12:.0f}e12 a second by the data sheet" if record["peak"] else "no data sheet known here"
    )
    text = (
        f"`python -m benchmarks.gpu`, {record['device']}; {record['title']}, bf16, LoRA of rank {programs.RANK}, "
        f"everything cached; torch {versions['torch']}, diffusers {versions['diffusers']}. Utilisation is the model's "
        f"operations a second, of {sheet}, and of {record['measured_peak'] / 1e12:.0f}e12 that a product of large "
        "matrices reached."
    )
    bare = {
        (row["train"], row["batch"]): row["step"]
        for row in record["rows"]
        if row["program"] == "bare" and "step" in row
    }
    heads = ["train", "switch", "batch", "program", "images/s", "step / bare"]
    heads += ["of data sheet", "of measured", "step, ms", "ready, s", "peak GPU memory, GB"]
    rows: list[list[object]] = []
    for row in record["rows"]:
        names = [row[key] for key in ("train", "switch", "batch", "program")]
        if "failed" in row:
            rows.append([*names, row["failed"], *[""] * 6])
            continue
        base = bare.get((row["train"], row["batch"]))
        cells: list[object] = [*names, f"{row['images_per_second']:.4g}", f"{row['step'] / base:.3f}" if base else ""]
        cells += [f"{row[key]:.1%}" if row[key] else "" for key in ("of_data_sheet", "of_measured")]
        memory = f"{row['peak_gpu_memory'] / 1e9:.2f}" if row["peak_gpu_memory"] else "no GPU"
        rows.append([*cells, f"{1000 * row['step']:.4g}", f"{row['ready']:.1f}", memory])
    return f"# Training on a GPU\n\n{text}\n\n{table(heads, rows)}"


def in_time(rows: list[Row], record: Record, start: float, seconds: float) -> Iterator[tuple[Row, Row | None]]:
    """Each row with the one to make ready behind it, as long as there is time; a batch for which a smaller one did not
    fit is left out."""
    waiting = list(rows)
    while waiting and time.monotonic() - start < seconds:
        full = [
            Row(*(old[key] for key in Row._fields))
            for old in record.content["rows"]
            if old.get("failed") == "out of memory"
        ]
        waiting = [row for row in waiting if not any(row[:3] == old[:3] and row.batch >= old.batch for old in full)]
        if waiting:
            yield waiting[0], waiting[1] if len(waiting) > 1 else None
            waiting = waiting[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", nargs="+", type=int, default=[16, 1, 4, 32], help="in this order")
    parser.add_argument("--seconds", type=float, default=480.0, help="no row is begun later than this")
    parser.add_argument("--shapes", choices=SHAPES, default="sd15")
    parser.add_argument("--base", type=Path, help="default: texdiff-SHAPES-shapes in the temporary folder")
    parser.add_argument("--peer", type=Path, default=programs.WORK / "train_text_to_image_lora.py")
    parser.add_argument("--work", type=Path, default=programs.WORK / "gpu", help="folder to work in")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for the results")
    parser.add_argument("--try_on_cpu", action="store_true", help="go the whole way on the embedded base")
    given = parser.parse_args()
    start, trial = time.monotonic(), given.try_on_cpu
    # What is measured. Each of these is a program or two, which take long to import their libraries.
    work = given.work.resolve()
    make, title, resolution = SHAPES[given.shapes]
    turns = Turns(5, 3, 5)
    if trial:
        title, resolution, turns = "nano", 64, Turns(1, 2, 1)
    folder = given.base or Path(tempfile.gettempdir()) / f"texdiff-{given.shapes}-shapes"
    ask = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else '')"
    device = programs.python("-c", ask).strip()
    if not device and not trial:
        sys.exit("benchmarks.gpu: PyTorch finds no GPU here; --try_on_cpu goes the same way without measuring")
    with ThreadPoolExecutor() as pool:
        made = pool.submit(programs.fresh_dataset, work, max(given.batches), resolution, held_out=False)
        base = programs.nano() if trial else make(folder)
        load = programs.Workload(base=base, dataset=made.result(), resolution=resolution, batch=1, steps=1)
        # The first run encodes the dataset, so that every row finds it cached.
        first = StandBy(Row("texdiff", "lora", "graphs", 1), load, None, Turns(1, 1, 1), work)
        ranks = {"lora": programs.RANK, "full": 0}
        floors = dict(
            zip(ranks, pool.map(lambda rank: programs.floor(load, rank, "bfloat16"), ranks.values()), strict=True)
        )
    peer = programs.peer_script(given.peer) if given.shapes == "sd15" else None
    about: dict[str, Any] = {
        "device": device or programs.machine(),
        "title": f"{title}, {resolution} px",
        "peak": next((peak for name, peak in PEAKS.items() if name in device), None),
        "measured_peak": max(floor["flops_per_second"] for floor in floors.values()),
        "versions": programs.versions(),
    }
    flops = {train: floor["flops"] for train, floor in floors.items()}
    record = Record(given.output, about, flops, "gpu" if given.shapes == "sd15" else f"gpu_{given.shapes}")

    rows = wanted(given.batches, peer is not None, compiled=not trial)
    ready = {rows[0]: StandBy(rows[0], load, peer, turns, work)}
    try:
        encoded = first.measure()
        if "failed" in encoded:
            sys.exit(f"benchmarks.gpu: the first run failed: {encoded['failed']}")
        for row, coming in in_time(rows, record, start, given.seconds):
            for one in [row, *([coming] if coming else [])]:
                if one not in ready:
                    ready[one] = StandBy(one, load, peer, turns, work)
            figures = ready.pop(row).measure()
            print(f"{time.monotonic() - start:.0f} s", row, figures, flush=True)
            record.write(row, figures)
    finally:
        for program in ready.values():
            program.end()
    print(markdown(record.content))


if __name__ == "__main__":
    main()
