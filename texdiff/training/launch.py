"""A run's first moves: the processes, the folder, and what is said before anything is done."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, ProjectConfiguration

from texdiff.config import TrainingConfig, to_yaml
from texdiff.data.cache.encoders import default_cache_dir
from texdiff.data.cache.readability import readable
from texdiff.data.cache.store import EntryStore
from texdiff.data.records import Record, mean_coverage, read_records
from texdiff.errors import InputError
from texdiff.files import write_atomic
from texdiff.training.batching import BatchPlan
from texdiff.training.run.provenance import write_about
from texdiff.training.run.run_folder import lock

# A process that was killed is noticed at once. This is for one that hangs, and has to be longer than what the others
# do without it: the main process samples and saves, and one may have the larger share of the textures to encode.
PATIENCE = timedelta(minutes=60)
DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def start_accelerator(report_to: str, run: Path) -> Accelerator:
    """Accelerate as its own configuration says. Raises InputError where that cannot be had on this machine, and
    where ranks were launched that know nothing of each other and would write over each other's files."""
    try:
        accelerator = Accelerator(
            log_with=None if report_to == "none" else report_to,
            project_config=ProjectConfiguration(project_dir=str(run), logging_dir=str(run / "logs")),
            kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
        )
    except (ValueError, ImportError, RuntimeError) as error:
        raise InputError(f"accelerate cannot start: {error}; change its configuration (accelerate config)") from None
    launched = int(os.environ.get("WORLD_SIZE", 1))
    if launched != accelerator.num_processes:
        raise InputError(
            f"{launched} processes were launched but accelerate runs {accelerator.num_processes}, so each would train "
            "alone; on CPUs set ACCELERATE_USE_CPU=true, else give accelerate the number of processes"
        )
    if accelerator.mixed_precision not in DTYPES:
        raise InputError(f"mixed_precision: {accelerator.mixed_precision} is not supported; use no, fp16 or bf16")
    return accelerator


def split_batch(batch_size: int, accumulation_steps: int, accelerator: Accelerator) -> BatchPlan:
    """The micro-batches of this rank."""
    return BatchPlan(
        micro_batch_size=batch_size,
        accumulation_steps=accumulation_steps,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
    )


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process among those that share the encoding of a dataset."""

    share: slice
    is_main: bool
    device: torch.device
    wait: Callable[[], None]


def ranks(accelerator: Accelerator) -> Ranks:
    """As accelerate has started them."""
    return Ranks(
        share=slice(accelerator.process_index, None, accelerator.num_processes),
        is_main=accelerator.is_main_process,
        device=accelerator.device,
        wait=accelerator.wait_for_everyone,
    )


def weight_dtype(accelerator: Accelerator) -> torch.dtype:
    """What frozen weights and activations are kept in; trained weights are float32 always."""
    return DTYPES[accelerator.mixed_precision]


class Sizes(NamedTuple):
    """What a run is made of."""

    textures: int
    held_out: int
    coverage: float  # mean share of a texture that is covered, 0-1
    effective_batch: int  # samples of one optimiser step


def read_splits(config: TrainingConfig, accelerator: Accelerator) -> tuple[list[Record], list[Record]]:
    """The textures to train on, and those held out; with data.unreadable `skip` those that can be read."""
    data, skip = config.data, config.data.unreadable == "skip"
    columns = (data.image_column, data.mask_column, data.caption_column, config.mask.weight == "surface")
    splits = [read_records(data.dataset, split, *columns, missing_ok=skip) for split in ("train", "validation")]
    if skip:
        store = EntryStore(Path(data.cache_dir) if data.cache_dir else default_cache_dir() / "readable")
        ranks = slice(accelerator.process_index, None, accelerator.num_processes)
        wait, say = accelerator.wait_for_everyone, accelerator.is_main_process
        splits = [readable(s, store, resolution=data.resolution, mine=ranks, wait=wait, say=say) for s in splits]
    return splits[0], splits[1]


def announce(
    config: TrainingConfig,
    accelerator: Accelerator,
    records: Sequence[Record],
    held_out: Sequence[Record],
    effective_batch: int,
    run: Path,
    checkpoint: Path | None,
) -> Sizes:
    """Print, once, what is about to happen, and return what the run is made of."""
    sizes = Sizes(len(records), len(held_out), mean_coverage(records), effective_batch)
    if not accelerator.is_main_process:
        return sizes
    import yaml

    setting = config.run
    samples = sizes.effective_batch * setting.max_train_steps
    begin = f"goes on from {checkpoint}" if checkpoint else "starts new"
    print(yaml.safe_dump(config.to_dict(), sort_keys=False, allow_unicode=True))
    passes = f"{setting.train_batch_size} a pass x {setting.gradient_accumulation_steps} passes"
    outside = f"latent cells outside weigh {config.mask.outside_weight:g}"
    if config.mask.outside == "base_model":
        outside += ", with the base model's prediction as their target"
    processes = (
        f"{accelerator.num_processes} on {accelerator.device.type}, mixed precision {accelerator.mixed_precision}"
    )
    if accelerator.device.type == "cpu":
        processes += _threads(accelerator.num_processes)
    print(f"textures         {sizes.textures} to train on, {sizes.held_out} held out")
    print(f"mean coverage    {sizes.coverage:.1%} of a texture; {outside}")
    print(f"processes        {processes}")
    print(f"effective batch  {sizes.effective_batch} = {passes} x {accelerator.num_processes} processes")
    print(
        f"length           {setting.max_train_steps} steps = {samples} samples = {samples / sizes.textures:.1f} epochs"
    )
    print(f"run folder       {run} ({begin})", flush=True)
    return sizes


def _threads(processes: int) -> str:
    """How many of a CPU's cores are used, and what would use all: accelerate's launcher asks for one."""
    threads, share = torch.get_num_threads(), (os.cpu_count() or 1) // processes
    more = f" of {share} cores each; OMP_NUM_THREADS={share} before the command uses all" if threads < share else ""
    return f", {threads} thread{'s' if threads > 1 else ''}{more}"


def open_run_folder(config: TrainingConfig, accelerator: Accelerator, run: Path, sizes: Sizes) -> None:
    """Create the folder and write config.yaml and about.json into it; the other ranks wait for that."""
    if accelerator.is_main_process:
        try:
            run.mkdir(parents=True, exist_ok=True)
            lock(run)
            write_atomic(run / "config.yaml", to_yaml(config).encode())
            write_about(run, accelerator, config.data.dataset, **sizes._asdict())
        except OSError as error:
            raise InputError(f"run.output_dir: {run} cannot be written ({error.strerror}); name another") from None
    accelerator.wait_for_everyone()
    if config.run.report_to != "none":
        accelerator.init_trackers("texdiff", config=_flat(config.to_dict()))


def finish(accelerator: Accelerator, run: Path) -> None:
    """Close trackers and the process group, and say where to look."""
    accelerator.end_training()
    if accelerator.is_main_process:
        print(f"done: weights and samples are in {run}; look at {run / 'report.html'}")


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """section.key to a plain value, which is all that trackers take."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value if isinstance(value, int | float | bool | str) else str(value)
    return flat
