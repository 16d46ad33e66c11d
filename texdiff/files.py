"""Folders and files that are there whole or not at all, also after the machine went down while they were written."""

import os
import re
import shutil
import unicodedata
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A folder aside to write to, which takes `folder`'s place once the block has ended well and all is on the disk.

    Raises OSError where it cannot be written, with nothing left of it.
    """
    aside = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)  # of a run that was killed
    aside.mkdir(parents=True)
    try:
        with disk_errors(folder):
            yield aside
        follow_umask(aside)
        for path in [*aside.rglob("*"), aside]:
            fsync(path)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    before = _out_of_the_way(folder)
    aside.rename(folder)
    fsync(folder.parent)
    fsync(folder.parent.parent)  # which may have got the parent just now
    shutil.rmtree(before, ignore_errors=True)


def write_atomic(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Write a file aside, then give it its name. Folders above it are made.

    Args:
        durable: also wait until it is on the disk; not worth it for many files that could be made again.

    Raises OSError where it cannot be written, with nothing left of it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        aside.write_bytes(content)
        if durable:
            fsync(aside)
        aside.replace(path)
        if durable:
            fsync(path.parent)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_entries(folder: Path, last: str) -> Iterator[Path]:
    """As `atomic_folder`, for some entries of a folder with others in it. They take their places one by one; the entry
    `last`, without which the others say nothing, comes last."""
    with atomic_folder(folder / ".new") as aside:
        yield aside
    for path in sorted((folder / ".new").iterdir(), key=lambda path: (path.name == last, path.name)):
        before = _out_of_the_way(folder / path.name) if path.is_dir() else None
        path.replace(folder / path.name)
        if before is not None:
            shutil.rmtree(before, ignore_errors=True)
    (folder / ".new").rmdir()
    fsync(folder)


def remove(folder: Path) -> None:
    """Delete a folder, whole: it loses its name first, so that no half of it is ever taken for one."""
    shutil.rmtree(_out_of_the_way(folder), ignore_errors=True)


def follow_umask(folder: Path) -> None:
    """Give the files in `folder` the mode that files made there by themselves would have, as the folder's own was made:
    safetensors gives none but the user the right to read."""
    mode = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)


def hold(folder: Path) -> int | None:
    """Say that `folder` is in use, as long as the descriptor that this returns is open and this process lives. None
    where that cannot be said: on a file system without locks, or where there is no such folder."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    except (OSError, AttributeError):
        os.close(descriptor)
        return None
    return descriptor


@contextmanager
def unless_held(folder: Path) -> Iterator[bool]:
    """Whether no process holds `folder`, and none can begin to while the block lasts."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        free = True
    except BlockingIOError:
        free = False
    except (OSError, AttributeError):  # no locks here: their owner knows
        free = True
    try:
        yield free
    finally:
        os.close(descriptor)


def fsync(path: Path) -> None:
    """Wait until a file, or the list of a folder's entries, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """What safetensors says of a full disk, as the OSError that it is, naming `path`."""
    try:
        yield
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None


def slug(text: str) -> str:
    """ASCII letters and digits in lower case with single hyphens between, at most 40 characters, never empty."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:40].strip("-") or "texture"


def unique_name(stem: str, taken: Collection[str], between: str = "-", suffix: str = "") -> str:
    """STEM and the suffix, or the first of STEM-2, STEM-3, ... with it that is not taken; `between` is the hyphen."""
    name, count = f"{stem}{suffix}", 1
    while name in taken:
        count += 1
        name = f"{stem}{between}{count}{suffix}"
    return name


def _out_of_the_way(folder: Path) -> Path:
    """Rename `folder`, where it is there, to a name that nobody looks for, and return that."""
    hidden = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(hidden, ignore_errors=True)
    if folder.exists():
        folder.rename(hidden)
    return hidden
