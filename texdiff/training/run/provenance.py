"""What a run was made from, and on which machine: about.json, which model card and report read."""

import os
import platform
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from texdiff import __version__
from texdiff.data.records.in_storage import license_cells
from texdiff.data.rows import read_rows
from texdiff.storage import is_address
from texdiff.training.parallel import Parallel
from texdiff.training.startup import Sizes

PACKAGES = ("torch", "diffusers", "transformers", "peft", "accelerate")


def provenance(datasets: Sequence[str], sizes: Sizes, parallel: Parallel) -> dict[str, Any]:
    """What about.json holds: `sizes`, the licences of the dataset's textures, and the machine."""
    return {
        "dataset": {"name": ", ".join(datasets), **sizes._asdict(), "licenses": _licenses(datasets)},
        "machine": _machine(parallel),
    }


def _licenses(datasets: Sequence[str]) -> dict[str, int]:
    """Licence -> textures of the training splits, where the datasets say it."""
    named = (str(license or "unknown") for dataset in datasets for license in _license_cells(dataset))
    return dict(sorted(Counter(named).items()))


def _license_cells(name: str) -> Iterator[object]:
    if is_address(name):
        yield from license_cells(name)
        return
    dataset = Path(name)
    metadata = dataset / "train" / "metadata.jsonl"
    if metadata.is_file():
        yield from (row.get("license") for _, row in read_rows(metadata) if isinstance(row, dict))
    for shard in sorted(dataset.glob("data/train-*.parquet")):
        import pyarrow.parquet as pq

        with pq.ParquetFile(shard) as file:
            if "license" in file.schema_arrow.names:
                for batch in file.iter_batches(columns=["license"]):
                    yield from batch.column(0).to_pylist()


def _machine(parallel: Parallel) -> dict[str, Any]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cuda = parallel.device.type == "cuda"
    return {
        "processor": _processor(),
        "cores": cores,
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else [],
        "processes": parallel.world,
        "device": parallel.device.type,
        "mixed_precision": parallel.mixed_precision,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {"texdiff": __version__, **{name: version(name) for name in PACKAGES}},
    }


def _processor() -> str:
    """The processor's name as Linux gives it, or else as Python does."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
