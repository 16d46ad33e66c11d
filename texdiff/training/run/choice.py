"""Which folder a run is in, and which checkpoint it continues from."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from texdiff.errors import InputError
from texdiff.models.exports import CHECKPOINTS
from texdiff.training.run import Run, step_of
from texdiff.training.run.checkpoint import damage_of, newest_good
from texdiff.training.run.stored import RunStorage

if TYPE_CHECKING:
    from texdiff.training.parallel import Parallel


def choose_stored(address: str, resume: str, last_step: int, parallel: "Parallel") -> Run:
    """`Run.choose` for a run in storage: each machine has a folder of its own for it. Every rank must call it."""

    def choose() -> tuple[str, str | None]:
        found = RunStorage.choose(address, resume)
        _, resume_from = choose_folder(found.folder, resume, last_step)
        return found.address, resume_from.name if resume_from else None

    address, checkpoint = parallel.decide(choose)
    found = RunStorage(address)
    found.share(checkpoint, parallel)
    return Run(found.folder, found.folder / CHECKPOINTS / checkpoint if checkpoint else None, found)


def choose_folder(folder: Path, resume: str, last_step: int) -> tuple[Path, Path | None]:
    """The folder, or with `never` one that is free, and the checkpoint to continue from, as `Run.choose` has it."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"run.output_dir: {folder} is a file; name a folder")
    if resume == "never":
        first, number = folder, 2
        while folder.exists() and any(folder.iterdir()):
            folder = first.with_name(f"{first.name}-{number}")
            number += 1
        _check_writable(folder)
        return folder, None
    _check_writable(folder)
    others = folder.exists() and any(not path.name.startswith(".") for path in folder.iterdir())
    if others and not Run(folder).config_file.is_file():
        raise InputError(f"run.output_dir: {folder} holds other files and no run; name a new folder, or empty it")
    return folder, _checkpoint(Run(folder), last_step)


def missing(folder: Path) -> int:
    """How many folders of this path are not there yet, `folder` itself among them."""
    return next(n for n, path in enumerate((folder, *folder.absolute().parents)) if path.exists())


def _check_writable(folder: Path) -> None:
    """Known before hours of encoding: a file that has no name and is gone at once, where `folder` is or will be."""
    try:
        with tempfile.TemporaryFile(dir=[folder, *folder.absolute().parents][missing(folder)]):
            pass
    except OSError as error:
        raise InputError(f"run.output_dir: {folder} cannot be written ({error.strerror}); name another") from None


def _checkpoint(run: Run, last_step: int) -> Path | None:
    """The checkpoint to continue from, of which no step is beyond the last."""
    start_over = "start a new run with --run.resume never or another run.output_dir"
    there, wanted = run.checkpoints(), run.checkpoint_folder(last_step)
    if not there and run.is_finished:
        raise InputError(f"{run.folder}: a finished run without checkpoints, which would be overwritten; {start_over}")
    done = max(map(step_of, there), default=0)
    if done <= last_step:
        return newest_good(run)
    if wanted in there and damage_of(wanted) is None:
        return wanted
    steps = ", ".join(str(step_of(path)) for path in there)
    raise InputError(
        f"run.max_train_steps {last_step}: {run.folder} has done {done} and has no good checkpoint of step {last_step} "
        f"(there are {steps}); name another step, or {start_over}"
    )
