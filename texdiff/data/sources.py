"""What `texdiff prepare` is pointed at, as a sorted list of assets to read."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from texdiff.data.captions import CaptionFile, caption_from_name, find_captions, read_captions, read_sidecar
from texdiff.errors import InputError

MESH_SUFFIXES = (".glb", ".gltf", ".obj", ".ply", ".dae")
_TEXT_SUFFIXES = (".txt", ".jsonl", ".csv", ".md", ".html")  # never part of what a mesh looks like


@dataclass(frozen=True, kw_only=True)
class Asset:
    """One thing to read, with what is known about it without reading it.

    `label` is its path relative to its SOURCE, with "/". `key` names its content: it changes when the file, or a
    file that it may refer to, changes. `named` says that the captions are only the file's name.
    """

    path: Path
    label: str
    key: str
    captions: tuple[str, ...]
    named: bool
    license: str | None = None
    author: str | None = None


def find_assets(sources: list[Path], captions: Path | None) -> tuple[list[Asset], list[CaptionFile]]:
    """All meshes in the sources, in order of source and path, each once; and the captions files that were read.

    Raises InputError where a source does not exist or has no mesh in it.
    """
    given = read_captions(captions) if captions else None
    files = [given] if given else []
    assets: dict[Path, Asset] = {}
    for source in sources:
        if not source.exists():
            raise InputError(f"{source}: no such file or folder: give a mesh or a folder with meshes")
        root = source if source.is_dir() else source.parent
        found = given or find_captions(root)
        if found is not None and all(found.path != file.path for file in files):
            files.append(found)
        meshes, stamp = _walk(source)
        if not meshes:
            raise InputError(f"{source}: no mesh in it: looked for {', '.join(MESH_SUFFIXES)}")
        for path in meshes:
            if path.resolve() not in assets:
                assets[path.resolve()] = _asset(path, path.relative_to(root).as_posix(), stamp, found)
    return list(assets.values()), files


def _asset(path: Path, label: str, stamp: str, captions: CaptionFile | None) -> Asset:
    credit = captions.find(path, label) if captions else None
    texts = (credit.texts if credit else ()) or read_sidecar(path)
    # A GLB holds all it needs; the other formats refer to files, which may lie anywhere in the source.
    parts = [_stamp(path), "" if path.suffix.lower() == ".glb" else stamp]
    return Asset(
        path=path,
        label=label,
        key=hashlib.sha256("\n".join([str(path.resolve()), *parts]).encode()).hexdigest()[:24],
        captions=texts or (caption_from_name(path.stem),),
        named=not texts,
        license=credit.license if credit else None,
        author=credit.author if credit else None,
    )


def _walk(source: Path) -> tuple[list[Path], str]:
    """Meshes under `source` in sorted order, and a stamp that changes when any other file there does."""
    if not source.is_dir():
        if source.suffix.lower() not in MESH_SUFFIXES:
            raise InputError(f"{source}: not a mesh that is read here: use one of {', '.join(MESH_SUFFIXES)}")
        beside = [path for path in sorted(source.parent.iterdir()) if path.is_file()]
        return [source], _stamp_all(beside)
    meshes: list[Path] = []
    others: list[Path] = []
    for path in _files(source):
        (meshes if path.suffix.lower() in MESH_SUFFIXES else others).append(path)
    return sorted(meshes, key=Path.as_posix), _stamp_all(others)


def _files(folder: Path) -> Iterator[Path]:
    """Every visible file under a folder, in an order that does not depend on the file system."""
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                yield Path(root, name)


def _stamp_all(paths: list[Path]) -> str:
    stamps = [f"{path}:{_stamp(path)}" for path in paths if path.suffix.lower() not in _TEXT_SUFFIXES]
    return hashlib.sha256("\n".join(stamps).encode()).hexdigest()


def _stamp(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:  # a dangling link: reading it will say so
        return "missing"
    return f"{status.st_size}:{status.st_mtime_ns}"
