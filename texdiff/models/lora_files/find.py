"""Which file a LoRA is in, by the path that names it."""

from pathlib import Path

from texdiff.errors import InputError
from texdiff.models.exports import LAYOUT_NET, export_of_step, exports_by_step, newest_export
from texdiff.models.lora_files import LORA_FILE
from texdiff.models.lora_files.strength import PEFT_NAME


def lora_file(path: Path, step: int | None = None) -> Path:
    """The weights file that `path` means: itself, or the one in that folder.

    Of a run it is what it has exported, or until then what its newest checkpoint has, which is said in one line; with
    `step` what it had after so many steps. The folder of a checkpoint, or of the best, is a folder as well.

    Raises:
        InputError: there is none, with the steps that there are, or the folder holds a whole pipeline instead.
    """
    if path.is_dir():
        own = next((path / name for name in (LORA_FILE, PEFT_NAME) if (path / name).is_file()), None)
        if step is not None:
            return export_of_step(path, LORA_FILE, step, _step_of(own) if own else None)
        if own is not None:
            _say_where_newer_ones_are(path, own)
            return own
        if newest := newest_export(path, LORA_FILE):
            return newest
        if (path / "model_index.json").is_file():
            raise InputError(f"{path}: a whole pipeline, not a LoRA; give it as --model")
        if (path / LAYOUT_NET).is_dir():
            raise InputError(f"{path}: a layout net, not a LoRA; give it as --layout")
        raise InputError(f"{path}: no {LORA_FILE} in it or its checkpoints; give a LoRA run's folder or a file")
    if not path.is_file():
        raise InputError(f"{path}: no such LoRA; give a run folder or a .safetensors file")
    if step is not None:
        raise InputError(f"--step {step}: {path} is a file, of one step; give the folder of a run")
    if path.suffix != ".safetensors":
        raise InputError(f"{path}: not a .safetensors file; convert it, other formats can carry code")
    return path


def _say_where_newer_ones_are(run: Path, own: Path) -> None:
    """In one line, of a run that was continued after its export, and has not come to its new end."""
    by_step = exports_by_step(run, LORA_FILE)
    done, last = max(by_step, default=0), _step_of(own) if by_step else None
    if last is not None and done > last:
        print(f"{run}: takes its export, of step {last}; its newest is {by_step[done].parent}", flush=True)


def _step_of(file: Path) -> int | None:
    """The steps after which the file was written, where it says so."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "np") as weights:
            return int((weights.metadata() or {})["ss_steps"])
    except (OSError, SafetensorError, ValueError, LookupError):
        return None
