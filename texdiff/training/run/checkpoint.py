"""What a run needs to go on: trainable weights, the state of all that changes with them, and one number of progress.

No random state is kept: every draw is keyed by the sample, and progress says which sample is next. A checkpoint is a
folder, there whole or not at all, with SHA-256 sums of its files (`sha256sum -c SHA256SUMS` checks them as well).
"""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file

from texdiff.config import TrainingConfig
from texdiff.errors import InputError
from texdiff.files import atomic_folder, remove
from texdiff.training.run.state_file import read_state, write_state

WEIGHTS, STATE, PROGRESS, SUMS = "weights.safetensors", "state.safetensors", "progress.json", "SHA256SUMS"

# What may differ when a run goes on, because it does not change what is learnt up to a given step. Any other key may
# not, so a new one is safe before somebody thought about it. What the data and the batch come to is compared itself.
MAY_CHANGE = {
    "run": {"output_dir", "max_train_steps", "checkpointing_steps", "checkpoints_total_limit", "resume", "report_to"}
    | {"train_batch_size", "gradient_accumulation_steps", "gradient_checkpointing", "compile", "cuda_graphs"}
    | {"low_precision_norms", "low_precision_adapters", "channels_last"},
    "data": {"dataset", "unreadable", "cache", "cache_dir"},
    "validation": {"every", "prompts", "num_images", "num_inference_steps"},
}


def checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first, good or damaged."""
    return sorted(path for path in (run / "checkpoints").glob("step-*") if path.is_dir())


def newest_good(run: Path) -> Path | None:
    """The newest checkpoint whose files are as they were written; None where the run has none at all.

    Says in one line on stderr where newer ones are damaged. Raises InputError where every one is.
    """
    damaged: list[str] = []
    for checkpoint in reversed(checkpoints(run)):
        if (damage := _damage(checkpoint)) is None:
            if damaged and os.environ.get("RANK", "0") == "0":
                print(f"{', '.join(damaged)}; going on from {checkpoint} instead", file=sys.stderr, flush=True)
            return checkpoint
        damaged.append(f"{checkpoint} is damaged ({damage})")
    if damaged:
        raise InputError(f"{'; '.join(damaged)}; no other is left, so start over with --run.resume never")
    return None


class RunState:
    """The state of a run that is going on: writes its checkpoints and loads one.

    `parameters` are the trainable ones by name; `dataset` is a hash of what they are trained on; `more` are further
    parts with `state_dict` and `load_state_dict` that change while training, by name, an EMA say.
    """

    def __init__(
        self,
        parameters: Mapping[str, torch.nn.Parameter],
        optimizer: Any,
        lr_scheduler: Any,
        accelerator: Accelerator,
        config: TrainingConfig,
        dataset: str,
        effective_batch: int,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        self.parameters = parameters
        self.parts = {"optimizer": optimizer, "lr_scheduler": lr_scheduler, **(more or {})}
        if accelerator.scaler is not None:
            self.parts["scaler"] = accelerator.scaler
        self.accelerator = accelerator
        self.limit = config.run.checkpoints_total_limit
        self.effective_batch = effective_batch
        self.settings = config.to_dict() | {
            "dataset": {"content": dataset},
            "accelerate": {"mixed_precision": accelerator.mixed_precision},
        }
        self.saved = 0  # steps done in the newest good checkpoint
        self.damaged: list[Path] = []  # newer than the one that was loaded

    def save(self, run: Path, step: int) -> None:
        """Write RUN/checkpoints/step-........, then let the oldest go. Every rank must call it.

        Raises OSError where the disk is full, with the checkpoints before as they were.
        """
        if self.accelerator.is_main_process and step != self.saved:
            with atomic_folder(run / "checkpoints" / f"step-{step:08d}") as folder:
                save_file({n: p.detach().cpu().contiguous() for n, p in self.parameters.items()}, folder / WEIGHTS)
                write_state({name: part.state_dict() for name, part in self.parts.items()}, folder / STATE)
                progress = {"step": step, "samples_seen": step * self.effective_batch, "config": self.settings}
                (folder / PROGRESS).write_text(json.dumps(progress, indent=1), "utf-8")
                sums = "".join(f"{_sha256(folder / name)}  {name}\n" for name in (PROGRESS, STATE, WEIGHTS))
                (folder / SUMS).write_text(sums, "ascii")
            newest = run / "checkpoints" / f"step-{step:08d}"
            for old in {*self.damaged} - {newest}:
                remove(old)
            self.damaged = []
            self._tidy(newest)
        self.saved = step
        self.accelerator.wait_for_everyone()

    def load(self, checkpoint: Path) -> int:
        """Take over a checkpoint's state and return the steps that were done.

        Raises InputError for one that cannot be read, and where the configuration would now train something else.
        """
        try:
            progress = json.loads((checkpoint / PROGRESS).read_text("utf-8"))
            weights = load_file(checkpoint / WEIGHTS)
            parts = read_state(checkpoint / STATE)
            step, samples_seen, before = int(progress["step"]), int(progress["samples_seen"]), progress["config"]
            changed = _changed(before, self.settings)
        except Exception as error:  # whatever a file that somebody else wrote does to JSON and safetensors
            raise InputError(f"{checkpoint}: cannot be read ({_reason(error)}); delete it to go on without") from None
        if samples_seen != step * self.effective_batch:
            changed.append(f"effective batch: {samples_seen // max(step, 1)}, now {self.effective_batch}")
        if changed:
            raise InputError(
                f"{checkpoint}: was trained with other settings ({'; '.join(changed)}); restore them, or start over "
                "in a new folder with --run.resume never"
            )
        try:
            with torch.no_grad():
                for name, parameter in self.parameters.items():
                    if weights[name].shape != parameter.shape:
                        raise ValueError(f"{name} has another shape")
                    parameter.copy_(weights[name])
            for name, part in self.parts.items():
                part.load_state_dict(parts[name])
        except Exception as error:  # each part has its own way of saying that a state is not its own
            raise InputError(
                f"{checkpoint}: does not fit this model ({_reason(error)}); restore the base it was trained on, or "
                "start over in a new folder with --run.resume never"
            ) from None
        if self.accelerator.is_main_process:
            self._tidy(checkpoint)
        self.saved = step
        self.damaged = [path for path in checkpoints(checkpoint.parent.parent) if path.name > checkpoint.name]
        return step

    def _tidy(self, newest: Path) -> None:
        """Delete checkpoints that are too old, and what a process that was killed had begun to write or to delete."""
        for old in [path for path in checkpoints(newest.parent.parent) if path.name <= newest.name][: -self.limit]:
            remove(old)
        for left in newest.parent.glob(".step-*"):
            shutil.rmtree(left, ignore_errors=True)


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    fixed = set()
    if now["optim"]["lr_scheduler"] in ("linear", "cosine"):
        fixed.add("max_train_steps")  # these schedules are stretched to the run's length
    return [
        f"{section}.{key}: {before.get(section, {}).get(key)}, now {value}"
        for section, values in now.items()
        for key, value in values.items()
        if key not in MAY_CHANGE.get(section, set()) - fixed and before.get(section, {}).get(key) != value
    ]


def _damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint's files, None where nothing is."""
    try:
        sums = dict(line.split("  ")[::-1] for line in (checkpoint / SUMS).read_text("ascii").splitlines())
        for name in (PROGRESS, STATE, WEIGHTS):
            if _sha256(checkpoint / name) != sums[name]:
                return f"{name} is not what was written"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError) as error:
        return _reason(error) if isinstance(error, OSError) else f"{SUMS} is not what was written"
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
