"""What a run was made from, and on which machine: about.json, which model card and report read."""

import os
import platform
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from texdiff import __version__
from texdiff.data.rows import read_rows
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
    files = [file for dataset in datasets if (file := Path(dataset) / "train" / "metadata.jsonl").is_file()]
    rows = (row for file in files for _, row in read_rows(file) if isinstance(row, dict))
    return dict(sorted(Counter(str(row.get("license") or "unknown") for row in rows).items()))


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
