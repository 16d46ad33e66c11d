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


def escapes(path: str, folder: str) -> bool:
    """Whether `path` lies outside of `folder`, links followed. In a snapshot of the hub, where every file is a
    link into the repository's blobs, these count as inside."""
    real = os.path.join(_real(os.path.dirname(path)), os.path.basename(path))
    if os.path.islink(path):
        real = os.path.realpath(path)
    bounds = _bounds(folder)  # as text: a dataset has hundreds of thousands of names, and paths are slow to take apart
    return real != bounds and not real.startswith(bounds.rstrip(os.sep) + os.sep)


@lru_cache(maxsize=4096)
def _real(folder: str) -> str:
    return os.path.realpath(folder)


@lru_cache(maxsize=64)
def _bounds(folder: str) -> str:
    real = Path(os.path.realpath(folder))
    for above in real.parents:
        if above.name == "snapshots" and (above.parent / "blobs").is_dir():
            return str(above.parent)
    return str(real)
