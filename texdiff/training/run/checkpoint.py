"""What a run needs to continue: trainable weights, the state of all that changes with them, and one number of progress.

No random state is kept: every draw is keyed by the sample, and progress says which sample is next. A checkpoint is a
folder, complete or absent, with SHA-256 sums of its files (`sha256sum -c SHA256SUMS` checks them as well). Sharded
weights are gathered for it, one after another, so that any number of processes can continue from it. With it is
what the run would export at that step. That stays when the checkpoint is too old to be kept: it is small, and users
compare such files to choose among the steps.
"""

import hashlib
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from texdiff.config import RENAMED, DataConfig, TrainingConfig
from texdiff.errors import InputError, one_line
from texdiff.files import atomic_folder, remove, write_atomic
from texdiff.models.exports import PROGRESS, STATE, STATE_FILES, WEIGHTS
from texdiff.training.ema import Ema
from texdiff.training.parallel.sharding import optimizer_state, own_part, part_of
from texdiff.training.run import SUMS, Run, step_of
from texdiff.training.run.export import Export
from texdiff.training.run.metrics_log import MetricsLog
from texdiff.training.run.state_file import read_state, write_state

# What may differ when a run continues, because it does not change what is learnt up to a given step. Any other key may
# not, so a new one is safe before somebody thought about it. What the data and the batch come to is compared itself.
MAY_CHANGE = {
    "run": {"output_dir", "max_train_steps", "checkpointing_steps", "checkpoints_total_limit", "resume", "report_to"}
    | {"train_batch_size", "gradient_accumulation_steps", "gradient_checkpointing", "compile", "cuda_graphs"}
    | {"low_precision_norms", "low_precision_adapters", "channels_last"}
    | {"export_checkpoints", "keep_best", "early_stopping_patience"},
    "data": {"dataset", "unreadable", "cache", "cache_dir"},
    "validation": {"every", "prompts", "num_images", "num_inference_steps"},
}


def content_of(name: str) -> str | None:
    """A hash of the files of the pipeline in the folder `name`, wherever that is, or of the single file that is one;
    None where it is neither."""
    folder = Path(name).expanduser()
    if folder.is_file():
        return _sha256(folder)
    if not (folder / "model_index.json").is_file():
        return None
    parts = json.loads((folder / "model_index.json").read_text("utf-8")).keys() - {"safety_checker", "image_encoder"}
    digest = hashlib.sha256()
    for path in sorted(path for part in parts for path in (folder / part).rglob("*") if path.is_file()):
        with path.open("rb") as file:
            digest.update(f"{path.relative_to(folder)} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def newest_good(run: Run) -> Path | None:
    """The newest checkpoint whose files are as they were written; None where the run has none at all.

    Says in one line on stderr where newer ones are damaged. Raises InputError where every one is.
    """
    damaged: list[str] = []
    for checkpoint in reversed(run.checkpoints()):
        if (damage := damage_of(checkpoint)) is None:
            if damaged:
                print(f"{', '.join(damaged)}; continuing from {checkpoint} instead", file=sys.stderr, flush=True)
            return checkpoint
        damaged.append(f"{checkpoint} is damaged ({damage})")
    if damaged:
        raise InputError(f"{'; '.join(damaged)}; no other is left, so start over with --run.resume never")
    return None


class Checkpointer:
    """Writes the checkpoints of a run, and loads the one that it continues from.

    `parameters` are the trainable ones by name; `dataset` is a hash of what they are trained on; `export` adds to a
    checkpoint what other programs load.
    """

    def __init__(
        self,
        run: Run,
        log: MetricsLog,
        config: TrainingConfig,
        dataset: str,
        parameters: Mapping[str, torch.nn.Parameter],
        optimizer: Optimizer,
        lr_scheduler: LRScheduler,
        ema: Ema,
        export: Export | None = None,
    ) -> None:
        self.run, self.log, self.parallel, self.export = run, log, log.parallel, export
        self.parameters = parameters
        self.parts: dict[str, Any] = {"optimizer": optimizer, "lr_scheduler": lr_scheduler, "ema": ema}
        if self.parallel.scaler is not None:
            self.parts["scaler"] = self.parallel.scaler
        self.limit = config.run.checkpoints_total_limit
        self.settings = config.to_dict() | {
            "dataset": {"content": dataset},
            "accelerate": {"mixed_precision": self.parallel.mixed_precision},
        }
        self.base: str | None = None  # hash of the base's files, once it is known
        self.saved = 0  # steps done in the newest good checkpoint
        self.damaged: list[Path] = []  # newer than the one that was loaded

    def save(self, step: int) -> None:
        """Write RUN/checkpoints/step-........, then let the oldest go. Every rank must call it.

        Figures are written first, which stops a run whose loss is not finite. Raises OSError where the disk is full,
        with the checkpoints before as they were.
        """
        self.log.flush()
        state, write_export = None, None
        if step != self.saved and (self.parallel.is_main or self.parallel.sharded):
            state, write_export = self.parallel.whole(self._state()), self.export.checkpoint() if self.export else None
        if self.parallel.is_main and state is not None:
            newest = self.run.checkpoint_folder(step)
            with atomic_folder(newest) as folder:
                weights, parts = state
                save_file({name: weight.cpu().contiguous() for name, weight in weights.items()}, folder / WEIGHTS)
                write_state(parts, folder / STATE)
                samples = step * self.log.effective_batch
                self.base = self.base or content_of(self.settings["model"]["pretrained_model_name_or_path"])
                frozen = {"base": self.base, "layout_net": self._layout_net}
                progress = {"step": step, "samples_seen": samples, **frozen, "config": self.settings}
                (folder / PROGRESS).write_text(json.dumps(progress, indent=1), "utf-8")
                if write_export:
                    write_export(folder, step)
                names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
                (folder / SUMS).write_text("".join(f"{_sha256(folder / name)}  {name}\n" for name in names), "utf-8")
            for old in {*self.damaged} - {newest}:
                remove(old)
            self.damaged = []
            self._rotate(newest)
            self.run.send("checkpoint")
        self.saved = step
        self.parallel.wait()

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Weights by name, and the state of all that changes with them."""
        weights = {name: parameter.detach() for name, parameter in self.parameters.items()}
        return weights, {name: part.state_dict() for name, part in self.parts.items()}

    def resume(self) -> int:
        """Take over the checkpoint that the run continues from, if there is one, and return the steps that were done.

        The figures and samples of later ones are dropped, as they will be made again. Not so in a run that is to end
        here, though it has gone further before: it can go on from there again. Raises as `load` does.
        """
        step = self.load(self.run.resume_from) if self.run.resume_from else 0
        self.parallel.decide(self.run.record)
        ends_here = step == self.settings["run"]["max_train_steps"]
        self.log.drop_after(step, keep_later=ends_here)
        if self.parallel.is_main and not ends_here:
            for later in [folder for folder in self.run.sample_folders() if step_of(folder) > step]:
                remove(later)
        return step

    def load(self, checkpoint: Path) -> int:
        """Take over a checkpoint's state and return the steps that were done.

        Raises InputError for one that cannot be read, and where the configuration would now train something else.
        """
        try:
            progress = json.loads((checkpoint / PROGRESS).read_text("utf-8"))
            weights = load_file(checkpoint / WEIGHTS)
            parts = read_state(checkpoint / STATE)
            step, samples_seen, before = int(progress["step"]), int(progress["samples_seen"]), progress["config"]
            replaced = self._replaced(progress)
            changed = _changed(before, self.settings) + replaced
        except Exception as error:  # whatever a file that somebody else wrote does to JSON and safetensors
            reason = one_line(error)[:200]
            raise InputError(f"{checkpoint}: cannot be read ({reason}); delete it to continue without it") from None
        if samples_seen != step * self.log.effective_batch:
            changed.append(f"effective batch: {samples_seen // max(step, 1)}, now {self.log.effective_batch}")
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
                    own_part(parameter).copy_(part_of(weights[name], parameter))
            parts["optimizer"] = optimizer_state(parts["optimizer"], self.parameters.values())
            for name, part in self.parts.items():
                part.load_state_dict(parts[name])
        except Exception as error:  # each part has its own way of saying that a state is not its own
            raise InputError(
                f"{checkpoint}: does not fit this model ({one_line(error)[:200]}); restore the base it was trained on, "
                "or start over in a new folder with --run.resume never"
            ) from None
        if self.parallel.is_main:
            self._rotate(checkpoint)
        self.saved = step
        self.damaged = [path for path in self.run.checkpoints() if path.name > checkpoint.name]
        return step

    def _replaced(self, progress: dict[str, Any]) -> list[str]:
        """What to say where the checkpoint's base has other files now in the same place, or the layout net beside the
        adapters other weights. Where the base is in another place, with the same files, that is taken for its own."""
        before, now = progress["config"]["model"], self.settings["model"]
        name, content = now["pretrained_model_name_or_path"], progress.get("base")
        moved = before["pretrained_model_name_or_path"] != name
        found = self.parallel.decide(lambda: content_of(name)) if content else None
        self.base = content if found == content else None
        said = []
        if self.base and moved:
            before.update({key: now[key] for key in ("pretrained_model_name_or_path", "revision")})
        elif content and not self.base and not moved:
            said.append(f"model.pretrained_model_name_or_path: the files in {name}")
        if (net := progress.get("layout_net")) and net != self._layout_net:
            said.append(f"layout.init: the weights in {self.settings['layout']['init']}")
        return said

    @property
    def _layout_net(self) -> str | None:
        """A hash of the weights of the layout net that adapters are trained under."""
        return self.export.trainable.about.get("texdiff.layout.fingerprint") if self.export else None

    def _rotate(self, newest: Path) -> None:
        """Delete checkpoints that are too old, but for their exports, and what a process that was killed had begun to
        write or to delete."""
        for old in [path for path in self.run.checkpoints() if path.name <= newest.name][: -self.limit]:
            _keep_export(old)
        for folder in self.run.checkpoint_exports():
            for left in [*map(folder.joinpath, STATE_FILES), *folder.glob(".*")]:
                left.unlink(missing_ok=True)
        for left in self.run.checkpoints_folder.glob(".step-*"):
            shutil.rmtree(left, ignore_errors=True)


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    # A key that an old checkpoint does not have yet was what its default says.
    defaults = TrainingConfig(data=DataConfig(dataset="")).to_dict()
    before = {section: {**defaults.get(section, {}), **before.get(section, {})} for section in now}
    for old, new in RENAMED.items():
        (section, old_key), new_key = old.split("."), new.split(".")[1]
        if old_key in before.get(section, {}):
            before[section][new_key] = before[section].pop(old_key)
    fixed = set()
    if now["optim"]["lr_scheduler"] in ("linear", "cosine"):
        fixed.add("max_train_steps")  # these schedules are stretched to the run's length
    return [
        f"{section}.{key}: {before[section].get(key)}, now {value}"
        for section, values in now.items()
        for key, value in values.items()
        if key not in MAY_CHANGE.get(section, set()) - fixed and before[section].get(key) != value
    ]


def _keep_export(checkpoint: Path) -> None:
    """Make a checkpoint an export alone, or delete it where it has none. Its list of sums decides which it is, so it is
    the one or the other at any moment; the files that are not listed any more can go."""
    try:
        lines = (checkpoint / SUMS).read_text("utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.rstrip("\n").split("  ")[1] not in STATE_FILES]
    except (OSError, ValueError, IndexError):  # damaged
        kept = []
    if kept:
        write_atomic(checkpoint / SUMS, "".join(kept).encode())
    else:
        remove(checkpoint)


def damage_of(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint's files, None where nothing is."""
    try:
        sums = dict(line.split("  ")[::-1] for line in (checkpoint / SUMS).read_text("utf-8").splitlines())
        for name in STATE_FILES:
            if _sha256(checkpoint / name) != sums[name]:
                return f"{name} is not what was written"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError) as error:
        return one_line(error)[:200] if isinstance(error, OSError) else f"{SUMS} is not what was written"
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
