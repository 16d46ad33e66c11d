"""RUN/about.json: what a run was made from, and on which machine. Model card and report take it from there."""

import json
import os
import platform
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from texdiff import __version__
from texdiff.files import write_atomic

ABOUT = "about.json"
PACKAGES = ("torch", "diffusers", "transformers", "peft", "accelerate")


def write_about(run: Path, accelerator: Accelerator, dataset: str, **sizes: float) -> None:
    """Write RUN/about.json. `sizes`: counts and shares to keep beside the licences of the dataset's textures."""
    about = {
        "dataset": {"name": dataset, **sizes, "licenses": _licenses(Path(dataset))},
        "machine": _machine(accelerator),
    }
    write_atomic(run / ABOUT, json.dumps(about, indent=1, ensure_ascii=False).encode(), durable=False)


def read_about(run: Path) -> dict[str, Any]:
    """What `write_about` wrote; without it (a run of an older version) both parts are empty."""
    try:
        return json.loads((run / ABOUT).read_text("utf-8"))
    except (OSError, ValueError):
        return {"dataset": {}, "machine": {}}


def _licenses(dataset: Path) -> dict[str, int]:
    """Licence -> textures of the training split, where the dataset says it."""
    metadata = dataset / "train" / "metadata.jsonl"
    if not metadata.is_file():
        return {}
    rows = [json.loads(line) for line in metadata.read_text("utf-8").splitlines() if line.strip()]
    return dict(sorted(Counter(str(row.get("license") or "unknown") for row in rows).items()))


def _machine(accelerator: Accelerator) -> dict[str, Any]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cuda = accelerator.device.type == "cuda"
    return {
        "processor": _processor(),
        "cores": cores,
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else [],
        "processes": accelerator.num_processes,
        "device": accelerator.device.type,
        "mixed_precision": accelerator.mixed_precision,
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
