"""`texdiff doctor`: one screen about the machine: versions, GPUs, what fits, and where the cache is."""

import os
import platform
import shutil
from collections.abc import Iterator
from importlib import import_module, metadata
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement

from texdiff import __version__
from texdiff.cli.launch import default_precision

LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "peft", "datasets", "numpy", "pillow")
OPTIONAL = {
    "bitsandbytes": "optim.name adamw8bit",
    "dracopy": "meshes with Draco compression",
    "efficientnet-lite-pytorch": "texdiff evaluate",
    "prodigyopt": "optim.name prodigy",
    "schedulefree": "optim.name schedule_free_adamw",
    "xatlas": "--unwrap",
}


class Need(NamedTuple):
    """The memory that one kind of training takes."""

    what: str
    gigabytes: float
    measured: bool
    """Else counted by benchmarks/memory_estimate.py."""


# Batch 1 where nothing is said, LoRA of rank 8. benchmarks/results/gpu_switches.md and gpu.md.
ON_GPU = (
    Need("SD 1.5 LoRA, 512 px", 4.1, True),
    Need("SD 1.5 LoRA, 512 px, batch 4", 7.1, True),
    Need("SD 1.5 LoRA, 512 px, batch 16", 20.5, True),
    Need("SD 1.5 full, 512 px, adamw", 17.0, False),
    Need("SD 1.5 full, 512 px, adafactor, fused_backward_pass, checkpointing", 7.3, False),
    Need("SDXL LoRA, 1024 px", 16.4, False),
    Need("SDXL LoRA, 1024 px, run.gradient_checkpointing", 8.7, False),
)
# float32, benchmarks/results/switches.md and step.md.
ON_CPU = (
    Need("nano LoRA, 256 px, batch 4", 0.8, True),
    Need("SD 1.5 LoRA, 512 px", 7.4, True),
    Need("SD 1.5 LoRA, 512 px, run.gradient_checkpointing", 5.6, True),
    Need("SD 1.5 full, 512 px, adamw", 16.1, True),
    Need("SD 1.5 full, 512 px, adafactor, fused_backward_pass, checkpointing", 7.3, True),
)
CONTEXT = 0.6  # GB that CUDA itself takes beside what PyTorch allocates


def doctor() -> int:
    """Say what this machine has and what fits on it; exit 1 if what training needs is missing or too old."""
    missing = list(_wrong_versions())
    print(f"texdiff {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}")
    print("libraries  " + ", ".join(f"{name} {_version(name) or 'missing'}" for name in LIBRARIES))
    print("optional   " + ", ".join(f"{name} {_version(name) or f'missing ({use})'}" for name, use in OPTIONAL.items()))
    for line in missing:
        print(f"wrong      {line}")
    try:
        import_module("torch")
    except (ImportError, OSError) as error:
        print(f"torch      cannot be imported ({error}); install it again as https://pytorch.org says")
        return 1
    free, needs = _print_devices()
    print(*_cache_lines(), sep="\n")
    print(f"what fits  of {free:.1f} GB free on the {'CPU' if needs is ON_CPU else 'GPU with most memory'}")
    for need in needs:
        verdict = "fits" if need.gigabytes + (needs is ON_GPU) * CONTEXT <= free else "too large"
        source = "measured" if need.measured else "estimate"
        print(f"           {need.what:68}{need.gigabytes:5.1f} GB, {source}: {verdict}")
    return 1 if missing else 0


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _wrong_versions() -> Iterator[str]:
    """What texdiff's own metadata ask for and is not there."""
    try:
        texts = metadata.requires("texdiff") or []
    except metadata.PackageNotFoundError:  # a checkout that was not installed
        return
    for wanted in map(Requirement, texts):
        if wanted.marker is None and not wanted.specifier.contains(found := _version(wanted.name) or "0", True):
            yield f"{wanted.name} {found if found != '0' else 'is missing'}, wanted {wanted.specifier}"


def _print_devices() -> tuple[float, tuple[Need, ...]]:
    """The free memory of the device that is trained on, in GB, and what that might be enough for."""
    import psutil
    import torch

    count = torch.cuda.device_count()
    gpus = [torch.cuda.mem_get_info(number) for number in range(count)]
    for number, (free, total) in enumerate(gpus):
        bf16 = "bf16" if torch.cuda.get_device_capability(number) >= (8, 0) else "no bf16"
        memory = f"{total / 1e9:.1f} GB, {free / 1e9:.1f} free"
        print(f"GPU {number}      {torch.cuda.get_device_name(number)}, {memory}, {bf16}")
    if not gpus:
        built = torch.version.cuda or torch.version.hip
        reason = f"built for {built}, but no driver shows one" if built else "built without CUDA"
        print(f"GPU        none (torch {torch.__version__} is {reason})")
    ram = psutil.virtual_memory()
    bf16 = ", multiplies bf16" if {"avx512_bf16", "amx_bf16"} & _cpu_flags() else ""
    print(f"CPU        {os.cpu_count()} cores, {ram.total / 1e9:.1f} GB, {ram.available / 1e9:.1f} free{bf16}")
    precision = default_precision([torch.cuda.get_device_capability(number) for number in range(count)])
    more = "; --mixed_precision bf16 is faster here" if bf16 and not gpus else ""
    print(f"precision  texdiff train takes {'float32' if precision == 'no' else precision}{more}")
    return (max(free for free, _ in gpus) / 1e9, ON_GPU) if gpus else (ram.available / 1e9, ON_CPU)


def _cpu_flags() -> set[str]:
    """As Linux names them; none elsewhere."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    return next((set(line.split()) for line in lines if line.startswith("flags")), set())


def _cache_lines() -> Iterator[str]:
    from huggingface_hub.constants import HF_HUB_CACHE

    from texdiff.data.cache.upkeep import find_items
    from texdiff.storage import default_cache_dir

    folder = default_cache_dir()
    size = sum(item.size for item in find_items(folder, everything=True)) if folder.is_dir() else 0
    there = next(place for place in (folder, *folder.parents) if place.exists())
    space = f"{shutil.disk_usage(there).free / 1e9:.1f} GB free there"
    yield f"cache      {folder}: {size / 1e9:.2f} GB, {space}; texdiff cache --prune 30 clears it"
    yield f"hub        {HF_HUB_CACHE}: bases and datasets that were downloaded"
