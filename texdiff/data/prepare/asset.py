"""One thing to read: a mesh, or a picture with its mask."""

import hashlib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Asset:
    """A mesh or a picture, with what is known about it without reading it.

    `label` is its path relative to its SOURCE, with "/". `key` names its content: it changes when the file, or a
    file that it may refer to, changes. `named` says that the captions are only the file's name. `mask` is None for a
    mesh; for a picture the file with its mask, or the picture itself, whose alpha is the mask then. `surface` is the
    16-bit picture of the surface that each texel lands on, where its dataset has one. `split` is the one that the
    picture's dataset puts it in, "" where there is none. `problem` is why there is nothing to read after all.
    """

    path: Path
    label: str
    key: str
    captions: tuple[str, ...]
    named: bool
    license: str | None = None
    author: str | None = None
    mask: Path | None = None
    surface: Path | None = None
    split: str = ""
    problem: str | None = None


def key_of(path: Path, *others: Path, stamp: str = "") -> str:
    """A key for what these files hold, by their size and time."""
    parts = [str(path.resolve()), stamp, *(stamp_of(file) for file in (path, *others))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]


def stamp_of(path: Path) -> str:
    """Size and time of a file."""
    try:
        status = path.stat()
    except OSError:  # a dangling link, or a file that only a table names: reading it will say so
        return "missing"
    return f"{status.st_size}:{status.st_mtime_ns}"
