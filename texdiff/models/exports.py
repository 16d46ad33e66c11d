"""Where a run's folder has what it trained in the form that other programs load: its export, the best, by step."""

import json
from contextlib import suppress
from pathlib import Path

from texdiff.errors import InputError
from texdiff.storage import is_address
from texdiff.storage.copies import local_folder

CHECKPOINTS, BEST, BEST_FILE, LAYOUT_NET = "checkpoints", "best", "best.json", "controlnet"
STATE_FILES = PROGRESS, STATE, WEIGHTS = "progress.json", "state.safetensors", "weights.safetensors"
"""What a run continues from, in the folder of a checkpoint."""
MAPS_KEY = "_texdiff"
"""Of a layout net's config.json: what its maps show. Other programs pass over it."""


def local_run(name: str | Path) -> Path:
    """The folder, or file, of a run, or part of one: where it is named by an address in object storage a local copy of
    it, without what only training needs. Raises InputError where that cannot be had."""
    return local_folder(name, (*STATE_FILES, "logs")) if isinstance(name, str) and is_address(name) else Path(name)


def exports_by_step(run: Path, name: str) -> dict[int, Path]:
    """Steps -> the file `name` of the export after so many, in ascending order: of checkpoints, and of the best."""
    found = {}
    with suppress(OSError, ValueError, LookupError, TypeError, RecursionError):  # none, or not one that a run wrote
        found[int(json.loads((run / BEST / BEST_FILE).read_text("utf-8"))["step"])] = run / BEST / name
    for folder in (run / CHECKPOINTS).glob("step-*"):
        number = folder.name.removeprefix("step-")
        if number.isdecimal() and number.isascii():
            found[int(number)] = folder / name
    return {step: file for step, file in sorted(found.items()) if file.is_file()}


def newest_export(run: Path, name: str) -> Path | None:
    """The file `name` of the newest export in a run that has none of its own yet, which it says in one line; None where
    there is none."""
    by_step = exports_by_step(run, name)
    if not by_step:
        return None
    step, file = [*by_step.items()][-1]
    print(f"{run}: not finished; takes what it had after {step} steps, {file.parent}", flush=True)
    return file


def export_of_step(run: Path, name: str, step: int, last: int | None) -> Path:
    """The file `name` of the export after `step` steps; `last` are those of the run's own, where it says so.

    Raises InputError, with the steps that there are, where there is no such export.
    """
    by_step = exports_by_step(run, name)
    if last is not None:
        by_step.setdefault(last, run / name)
    if step not in by_step:
        there = ", ".join(map(str, sorted(by_step))) or "none"
        raise InputError(f"--step {step}: {run} has no export of that step; there are {there}")
    return by_step[step]
