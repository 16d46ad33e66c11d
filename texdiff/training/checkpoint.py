"""What a run needs to go on: trainable weights, optimiser, schedule, and one number of progress.

No random state is kept: every draw is keyed by the sample, and progress says which sample is next.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file

from texdiff.config import TrainingConfig
from texdiff.errors import InputError

WEIGHTS, STATE, PROGRESS = "weights.safetensors", "state.pt", "progress.json"

# What may differ when a run goes on, because it does not change what is learnt up to a given step.
MAY_CHANGE = {
    "run": {"output_dir", "max_train_steps", "checkpointing_steps", "checkpoints_total_limit", "resume", "report_to"}
    | {"train_batch_size", "gradient_accumulation_steps", "gradient_checkpointing"},
    "data": {"dataset", "cache_dir"},
    "validation": {"every", "prompts", "num_images", "num_inference_steps"},
}


def checkpoints(run: Path) -> list[Path]:
    """Whole checkpoints of a run, oldest first."""
    return sorted(p.parent for p in (run / "checkpoints").glob("step-*/" + PROGRESS))


class RunState:
    """The state of a run that is going on: writes its checkpoints and loads one.

    `parameters` are the trainable ones by name; `dataset` is a hash of what they are trained on.
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
    ) -> None:
        self.parameters = parameters
        self.parts = {"optimizer": optimizer, "lr_scheduler": lr_scheduler}
        if accelerator.scaler is not None:
            self.parts["scaler"] = accelerator.scaler
        self.accelerator = accelerator
        self.limit = config.run.checkpoints_total_limit
        self.effective_batch = effective_batch
        self.config = config.to_dict() | {"dataset": {"content": dataset}}

    def save(self, run: Path, step: int) -> None:
        """Write RUN/checkpoints/step-........ aside and rename it, then let the oldest go. Every rank must call it."""
        if self.accelerator.is_main_process:
            folder = run / "checkpoints" / f"step-{step:08d}"
            aside = folder.with_name(f".{folder.name}.tmp")
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
            save_file({name: p.detach().cpu().contiguous() for name, p in self.parameters.items()}, aside / WEIGHTS)
            torch.save({name: part.state_dict() for name, part in self.parts.items()}, aside / STATE)
            progress = {"step": step, "samples_seen": step * self.effective_batch, "config": self.config}
            (aside / PROGRESS).write_text(json.dumps(progress, indent=1), "utf-8")
            shutil.rmtree(folder, ignore_errors=True)
            aside.rename(folder)
            for old in checkpoints(run)[: -self.limit]:
                shutil.rmtree(old)
        self.accelerator.wait_for_everyone()

    def load(self, checkpoint: Path) -> int:
        """Take over a checkpoint's state and return the steps that were done.

        Raises InputError for a damaged one, and where the configuration would now train something else.
        """
        try:
            progress = json.loads((checkpoint / PROGRESS).read_text("utf-8"))
            weights = load_file(checkpoint / WEIGHTS)
            parts = torch.load(checkpoint / STATE, map_location="cpu", weights_only=True)
            step, samples_seen, before = int(progress["step"]), int(progress["samples_seen"]), progress["config"]
        except Exception as error:  # whatever damage does to JSON, safetensors or torch's own format
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{checkpoint}: is damaged ({reason}); delete it to go on from the one before") from None
        changed = _changed(before, self.config)
        if samples_seen != step * self.effective_batch:
            changed.append(f"effective batch: {samples_seen // max(step, 1)}, now {self.effective_batch}")
        if changed:
            raise InputError(
                f"{checkpoint}: was trained with other settings ({'; '.join(changed)}); restore them, or start over "
                "in a new folder with --run.resume never"
            )
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(weights[name])
        for name, part in self.parts.items():
            part.load_state_dict(parts[name])
        return step


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
