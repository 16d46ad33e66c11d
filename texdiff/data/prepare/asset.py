"""What `prepare` and `check` read one by one: a mesh, or an image with its mask."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from texdiff.errors import readable


@dataclass(frozen=True, kw_only=True)
class Asset:
    """A mesh or an image, with what is known about it without reading it."""

    path: Path
    label: str  # the path relative to its SOURCE, with "/"
    key: str  # of its content: another one when the file, or a file that it may refer to, changes
    captions: tuple[str, ...]
    named: bool  # the captions are only the file's name
    license: str | None = None
    author: str | None = None
    title: str | None = None
    mask: Path | None = None  # None for a mesh; for an image its mask's file, or the image itself, whose alpha is it
    surface: Path | None = None  # 16-bit image of the mesh area per texel, where its dataset has one
    layout: Path | None = None  # map of where on the mesh each texel lies, where its dataset has one
    repeats: int = 1  # its visits beside those of others: kohya's num_repeats
    regularisation: bool = False  # kohya's is_reg
    address: str = ""  # of the folder in object storage that these files are in, by paths from there
    split: str = ""  # the one that the image's dataset puts it in
    problem: str | None = None  # why there is nothing to read after all
    extra: bool = False  # the problem is of something that may well be meant to stay out

    def __post_init__(self) -> None:
        for name in ("label", "license", "author", "title"):
            text = getattr(self, name)
            object.__setattr__(self, name, text and readable(text))
        object.__setattr__(self, "captions", tuple(map(readable, self.captions)))


# Names by which datasets tells splits apart; any other is part of what is trained on.
_HELD_OUT = ("validation", "valid", "val", "dev")
_TEST = ("test", "testing", "eval", "evaluation")


def split_of(asset: Asset) -> str:
    """`train`, `validation` or `test`: what an asset is for by the split that its dataset puts it in."""
    name = asset.split.lower()
    return "validation" if name in _HELD_OUT else "test" if name in _TEST else "train"


def folder_split(path: Path, root: Path) -> str:
    """The split of an image without a table: the folder under its dataset's root where that has a split's name, and
    stands beside one of what is to be trained on. "" where there is none."""
    first = path.relative_to(root).parts[0]
    beside = {folder.lower() for folder in os.listdir(root)} & {"train", "training"}
    return first if beside and first.lower() in (*_HELD_OUT, *_TEST) else ""


def asset_key(path: Path, *others: Path, stamp: str = "") -> str:
    """A key for what these files hold, by their size and time."""
    parts = [os.path.realpath(path), stamp, *(stamp_of(file) for file in (path, *others))]
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:24]


def stamp_of(path: Path) -> str:
    """Size and time of a file."""
    try:
        status = path.stat()
    except OSError:  # a dangling link, or a file that only a table names: reading it will say so
        return "missing"
    return f"{status.st_size}:{status.st_mtime_ns}"


def unusable(path: Path, label: str, problem: str, *, split: str = "", extra: bool = False) -> Asset:
    """What there is nothing to read of; it is named all the same."""
    key = hashlib.sha256(f"{path} {label} {problem}".encode("utf-8", "surrogatepass")).hexdigest()[:24]
    return Asset(
        path=path, mask=path, label=label, key=key, captions=(), named=True, split=split, problem=problem, extra=extra
    )
