"""Where `prepare` writes: a work folder beside the output, and the output itself, replaced in one step."""

import os
import shutil
from pathlib import Path

from texdiff import __version__
from texdiff.data.prepare.dataset_card import TAG
from texdiff.errors import InputError
from texdiff.files import write_atomic

_AUDIT = {"audit.jsonl", "audit.html"}
_LAYOUT = f"6 {__version__}"  # of the work folder: another one, and nothing in it is used again


def check_output(output: Path) -> None:
    """An output that is there must be empty, or a dataset or an audit written here: only these are replaced."""
    if audit_place(output) == output:
        return
    card = output / "README.md"
    ours = (output / "audit.jsonl").is_file() and card.is_file() and f"- {TAG}\n" in card.read_text(errors="replace")
    if not ours:
        raise InputError(f"{output}: exists and is not a dataset written by texdiff; name another folder, or empty it")


def audit_place(output: Path) -> Path:
    """Where the audit goes that is all there is to write: to the output, or beside a dataset there."""
    free = not output.exists() or (output.is_dir() and {path.name for path in output.iterdir()} <= _AUDIT)
    return output if free else output.with_name(f"{output.name}.audit")


def open_work_folder(output: Path) -> tuple[Path, bool]:
    """`DATASET.partial`, and whether it is new. One that is not is from a run that was stopped, and is continued."""
    work = output.with_name(f"{output.name}.partial")
    mark = work / "texdiff"
    if work.exists() and (not work.is_dir() or (_holds_something(work) and not mark.is_file())):
        raise InputError(f"{work}: is needed as work folder but holds something else; move it away")
    if mark.is_file() and mark.read_text() != _LAYOUT:
        shutil.rmtree(work)
    is_new = not mark.is_file()
    try:
        work.mkdir(parents=True, exist_ok=True)
        if is_new:
            write_atomic(mark, _LAYOUT.encode(), durable=False)  # tasks on several machines may begin at once
    except OSError as error:
        raise InputError(f"{work}: cannot be written ({error.strerror}); choose another --output") from None
    shutil.rmtree(work / "dataset", ignore_errors=True)
    return work, is_new


def _holds_something(work: Path) -> bool:
    return any(not path.name.startswith(".") for path in work.iterdir())


def put_in_place(folder: Path, output: Path) -> None:
    old = output.with_name(f"{output.name}.old")
    if output.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.replace(output, old)
    os.replace(folder, output)
    shutil.rmtree(old, ignore_errors=True)
