"""Which paths are followed that a file from an untrusted source names."""

import os
from functools import lru_cache
from pathlib import Path

LEVELS = 2  # folders above its own: ../textures/x.png is common, ../../textures/x.png is met


def near_mesh(path: Path, mesh: Path) -> bool:
    """Whether `path`, by its name, lies beneath the folder two above the mesh's own; never beneath all of a home."""
    home = Path.home().absolute()
    folder = Path(os.path.normpath(mesh.absolute())).parent
    for _ in range(LEVELS):
        above = folder.parent
        if above == Path(above.anchor) or above == home or above in home.parents:
            break
        folder = above
    return Path(os.path.normpath(path.absolute())).is_relative_to(folder)


def escapes(path: str, folder: str, is_link: bool = True) -> bool:
    """Whether `path` lies outside of `folder`, links followed. In a snapshot of the hub, where every file is a
    link into the repository's blobs, these count as inside. `is_link` False: it is known to be none itself."""
    above, _, name = path.rpartition(os.sep)
    if name in ("", os.curdir, os.pardir) or (is_link and os.path.islink(path)):
        return _is_outside(os.path.realpath(path), folder)
    return _folder_is_outside(above, folder)  # remembered: a dataset has a million names, and few folders


@lru_cache(maxsize=4096)
def _folder_is_outside(path: str, folder: str) -> bool:
    return _is_outside(os.path.realpath(path), folder)


def _is_outside(real: str, folder: str) -> bool:
    bounds = _bounds(folder)
    return real != bounds and not real.startswith(bounds.rstrip(os.sep) + os.sep)


@lru_cache(maxsize=64)
def _bounds(folder: str) -> str:
    real = Path(os.path.realpath(folder))
    for above in real.parents:
        if above.name == "snapshots" and (above.parent / "blobs").is_dir():
            return str(above.parent)
    return str(real)
