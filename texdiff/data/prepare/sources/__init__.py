"""What `texdiff prepare` and `texdiff check` are pointed at, as a sorted list of assets to read."""

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from texdiff.data.prepare.asset import Asset, asset_key, stamp_of, unusable
from texdiff.data.prepare.sources.captions import (
    CaptionFile,
    caption_from_name,
    find_captions,
    read_captions,
    read_sidecar,
)
from texdiff.data.prepare.sources.image_folders import find_images
from texdiff.data.prepare.sources.kohya_config import read_kohya_config
from texdiff.data.prepare.sources.tables import find_metadata, read_metadata, read_table
from texdiff.errors import InputError
from texdiff.storage import is_address

MESH_SUFFIXES = (".glb", ".gltf", ".obj", ".ply", ".dae")
_UNREAD_MESHES = (
    ".fbx",
    ".blend",
    ".usd",
    ".usda",
    ".usdc",
    ".usdz",
    ".stl",
    ".3ds",
    ".x3d",
    ".abc",
    ".max",
    ".ma",
    ".mb",
    ".c4d",
)
_TEXT_SUFFIXES = (".txt", ".jsonl", ".csv", ".md", ".html")  # never part of how a mesh is drawn
_NAMES_OF_ALL = ("scene", "model", "mesh", "untitled", "source", "gltf", "glb", "obj", "meshes", "models", "")
_HUB_ID = r"[\w.-]+/[\w.-]+"


def find_assets(
    sources: list[str], captions: Path | None, spool: Path, skip: tuple[Path, ...] = ()
) -> tuple[list[Asset], list[CaptionFile]]:
    """All meshes in the sources, or images where there is no mesh, in order of source and path, each once; and what
    is left out on purpose, as assets with a `problem`: links to folders, meshes and images of kinds that are not read,
    masks of no image.

    Also returns the captions files that were read. What is not a file yet (an image in Parquet) is written to `spool`.
    Folders in `skip` are not searched: what is being written may lie within a source.
    Raises InputError where a source does not exist or has nothing of the kind in it.
    """
    given = read_captions(captions) if captions else None
    files = [given] if given else []
    assets: dict[tuple[str, str], Asset] = {}
    for source in sources:
        path = Path(source)
        if not path.exists():
            if is_address(source):
                raise InputError(f"{source}: storage that has an address is not read; copy it to a disk")
            if not re.fullmatch(_HUB_ID, source):
                raise InputError(f"{source}: no such file or folder; check the path")
            found = list(read_table(source, spool))
        elif path.is_file():
            found = _file(path, given, files)
        else:
            found = _folder(path, given, files, spool, skip)
        for asset in found:
            assets.setdefault((os.path.realpath(asset.path), asset.key), asset)
    return list(assets.values()), files


def is_table(folder: Path) -> bool:
    """Whether what a folder holds is for `datasets` to read: Parquet, or what `save_to_disk` wrote."""
    tables = (path.suffix in (".parquet", ".arrow") for path in _walk(folder, ()))
    return folder.is_dir() and not find_metadata(folder) and any(tables)


def _file(path: Path, given: CaptionFile | None, files: list[CaptionFile]) -> list[Asset]:
    if path.suffix.lower() == ".toml":
        return read_kohya_config(path)
    if path.suffix.lower() not in MESH_SUFFIXES:
        raise InputError(f"{path}: not a mesh format that texdiff reads; use one of {', '.join(MESH_SUFFIXES)}")
    beside = [file for file in sorted(path.parent.iterdir()) if file.is_file()]
    return [_mesh(path, path.name, _stamp_all(beside), _captions(path.parent, given, files))]


def _folder(
    folder: Path, given: CaptionFile | None, files: list[CaptionFile], spool: Path, skip: tuple[Path, ...]
) -> list[Asset]:
    meshes: list[Path] = []
    others: list[Path] = []
    links: list[Asset] = []
    for path in _walk(folder, skip):
        if path.is_dir():
            problem = "is a link to a folder, which is not followed; give the folder itself as a source"
            links.append(unusable(path, path.relative_to(folder).as_posix(), problem, extra=True))
        else:
            (meshes if path.suffix.lower() in MESH_SUFFIXES else others).append(path)
    if meshes:
        stamp, captions = _stamp_all(others), _captions(folder, given, files)
        meshes.sort(key=Path.as_posix)
        read = [_mesh(path, path.relative_to(folder).as_posix(), stamp, captions) for path in meshes]
        return read + _unread(folder, others, {path.with_suffix("") for path in meshes}) + links
    if metadata := find_metadata(folder):
        return [asset for path in metadata for asset in read_metadata(path, folder, spool)]
    if any(path.suffix in (".parquet", ".arrow") for path in others):
        return list(read_table(str(folder), spool))
    if found := find_images(folder, others) + links:
        return found
    kinds = sorted({unread.path.suffix.lower() for unread in _unread(folder, others, set())})
    also = f"; its {', '.join(kinds)} files are not read, so export them as .glb" if kinds else ""
    raise InputError(f"{folder}: contains no mesh ({', '.join(MESH_SUFFIXES)}), no images and no dataset{also}")


def _unread(folder: Path, files: list[Path], read: set[Path]) -> list[Asset]:
    """Meshes of kinds that are not read, but for those that lie beside one of the same name that is."""
    return [
        unusable(
            path,
            path.relative_to(folder).as_posix(),
            f"meshes in {path.suffix.lower()} are not read; export it as .glb",
            extra=True,
        )
        for path in files
        if path.suffix.lower() in _UNREAD_MESHES and path.with_suffix("") not in read
    ]


def _captions(folder: Path, given: CaptionFile | None, files: list[CaptionFile]) -> CaptionFile | None:
    found = given or find_captions(folder)
    if found is None:
        return None
    known = next((file for file in files if file.path == found.path), None)
    if known is None:
        files.append(found)
    return known or found


def _mesh(path: Path, label: str, stamp: str, captions: CaptionFile | None) -> Asset:
    credit = captions.find(path, label) if captions else None
    try:
        texts = (credit.texts if credit else ()) or read_sidecar(path)
    except InputError as error:
        return unusable(path, label, str(error))
    return Asset(
        path=path,
        label=label,
        # A GLB holds all it needs; the other formats refer to files, which may lie anywhere in the source.
        key=asset_key(path, stamp="" if path.suffix.lower() == ".glb" else stamp),
        captions=texts or (caption_from_name(_name_of(path)),),
        named=not texts,
        license=credit.license if credit else None,
        author=credit.author if credit else None,
    )


def _name_of(path: Path) -> str:
    """The mesh's own name, or, where every download has that (scene.gltf), the name of a folder that it is in."""
    names = [path.stem, *(folder.name for folder in path.absolute().parents[:3])]
    return next((name for name in names if name.lower() not in _NAMES_OF_ALL), path.stem)


def _walk(folder: Path, skip: tuple[Path, ...]) -> Iterator[Path]:
    """Every visible file under a folder, and the links to folders, in an order that is the same on all file systems."""
    for root, folders, names in os.walk(folder):
        visible = [name for name in folders if not name.startswith(".")]
        folders[:] = sorted(name for name in visible if Path(root, name).resolve() not in skip)
        for name in sorted([*names, *(name for name in folders if Path(root, name).is_symlink())]):
            if not name.startswith("."):
                yield Path(root, name)


def _stamp_all(paths: list[Path]) -> str:
    stamps = [f"{path}:{stamp_of(path)}" for path in paths if path.suffix.lower() not in _TEXT_SUFFIXES]
    return hashlib.sha256("\n".join(stamps).encode("utf-8", "surrogatepass")).hexdigest()
