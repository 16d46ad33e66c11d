"""Datasets that are a table: metadata.jsonl or metadata.csv beside images, Parquet, a saved dataset, the hub's.

The image's column is called image, texture or diffuse, the mask's mask, the caption's text, caption or prompt; in
metadata files the first two may end in _file_name, and file_name alone is the image. A mask that is a string is
taken as base64 of zlib of the mask's bits, packed row by row, high bit first (the Texture-Anything dataset has these).
The columns surface and layout, surface_file_name and layout_file_name in metadata files, are what `texdiff prepare`
writes: the mesh's surface per texel, and where on the mesh it lies.
"""

import base64
import binascii
import hashlib
import io
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from texdiff.data.prepare.asset import Asset, asset_key, unusable
from texdiff.data.prepare.sources.captions import caption_from_name
from texdiff.data.rows import caption_of, read_rows, repeats_of
from texdiff.errors import InputError, one_line
from texdiff.files import write_atomic
from texdiff.paths import escapes

_IMAGE = ("image", "texture", "diffuse")
_MAPS = ("surface", "layout")
_MAX_PACKED = 1 << 25  # bytes after zlib: a mask of 16384 x 16384


def find_metadata(folder: Path) -> list[Path]:
    """metadata.jsonl or metadata.csv in a folder and, one level down, in its splits."""
    places = [folder, *sorted(path for path in folder.iterdir() if path.is_dir())] if folder.is_dir() else []
    found = [place / f"metadata.{suffix}" for place in places for suffix in ("jsonl", "csv")]
    return [path for path in found if path.is_file()]


def read_metadata(path: Path, root: Path, spool: Path) -> Iterator[Asset]:
    """The rows of a metadata file as assets; packed masks are written into `spool` as images."""
    split = "" if path.parent == root else path.parent.name
    for number, row in read_rows(path):
        try:
            if isinstance(row, str):
                raise InputError(row)
            image, mask = _files(row, path.parent, spool)
            maps = _map_files(row, path.parent)
            for file in (image, mask, *maps.values()):
                if not _can_be(file):
                    raise InputError(f"{file.name!r} cannot be the name of a file")
                if not file.is_relative_to(spool) and escapes(str(file), str(root)):
                    raise InputError(f"{file.name!r} is outside of the dataset's folder; put the file itself there")
            credit = _credit(row, image.stem)
        except InputError as error:
            yield unusable(path, f"{path.relative_to(root).as_posix()}, line {number}", str(error), split=split)
            continue
        label = image.relative_to(root).as_posix() if image.is_relative_to(root) else image.name
        key = asset_key(image, mask, *maps.values())
        yield Asset(path=image, mask=mask, label=label, key=key, split=split, **maps, **credit)


def _map_files(row: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Those of a row's surface file and layout map that it names."""
    names = {kind: row.get(f"{kind}_file_name") for kind in _MAPS}
    return {kind: folder / name for kind, name in names.items() if isinstance(name, str) and name}


def _can_be(file: Path) -> bool:
    try:
        return b"\0" not in os.fsencode(file)
    except UnicodeEncodeError:
        return False


def _files(row: dict[str, Any], folder: Path, spool: Path) -> tuple[Path, Path]:
    name = next((row[key] for key in ("file_name", *(f"{c}_file_name" for c in _IMAGE)) if row.get(key)), None)
    if not isinstance(name, str):
        raise InputError(f"no file_name; give the path of the image relative to {folder.name}")
    if isinstance(row.get("mask_file_name"), str):
        return folder / name, folder / row["mask_file_name"]
    text = row.get("mask")
    if not isinstance(text, str) or not text:
        return folder / name, folder / name
    is_name = len(text) < 256 and (folder / text).is_file()
    return folder / name, folder / text if is_name else _unpacked(text, spool)


def read_table(source: str, spool: Path) -> Iterator[Asset]:
    """The rows of anything `datasets` can load, row by row: images and masks are written into `spool`."""
    import datasets

    datasets.disable_progress_bars()
    folder = Path(source)
    try:
        saved = any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))
        loaded = datasets.load_from_disk(source) if saved else datasets.load_dataset(source)
    except Exception as error:  # the library raises all kinds for a name it cannot load
        raise InputError(f"{source}: cannot be read as a dataset ({one_line(error)})") from None
    splits = loaded if isinstance(loaded, dict) else {"": loaded}
    for split, rows in splits.items():
        image = next((name for name in _IMAGE if name in rows.column_names), None)
        if image is None or "mask" not in rows.column_names:
            raise InputError(f"{source}: needs columns image, mask and text; it has {', '.join(rows.column_names)}")
        for name in (image, "mask", *_MAPS):
            if isinstance(rows.features.get(name), datasets.Image):
                rows = rows.cast_column(name, datasets.Image(decode=False))
        for number, row in enumerate(rows):
            label = f"{split}/{number:08d}".lstrip("/")
            try:
                texture = _spooled(_bytes(row[image]), spool)
                packed = isinstance(row["mask"], str)
                mask = _unpacked(row["mask"], spool) if packed else _spooled(_bytes(row["mask"]), spool)
                given: list[str] = [kind for kind in _MAPS if isinstance(row.get(kind), dict)]
                maps: dict[str, Any] = {kind: _spooled(_bytes(row[kind]), spool) for kind in given}
            except InputError as error:
                yield unusable(folder, label, str(error), split=split)
                continue
            name = row.get("asset_id") if isinstance(row.get("asset_id"), str) else label.replace("/", "-")
            names = " ".join([label, texture.name, mask.name, *(file.name for file in maps.values())])
            key = hashlib.sha256(names.encode()).hexdigest()[:24]
            label, credit = f"{label}/{name}", _credit(row, name)
            yield Asset(path=texture, mask=mask, label=label, key=key, split=split, **maps, **credit)


def _credit(row: dict[str, Any], stem: str) -> dict[str, Any]:
    texts = caption_of(row)
    texts = texts if isinstance(texts, list) else [texts]
    given = tuple(dict.fromkeys(one_line(text) for text in texts if isinstance(text, str) and text.strip()))
    kept = {key: row[key] for key in ("license", "author") if isinstance(row.get(key), str) and row[key] != "unknown"}
    visits = {"repeats": repeats_of(row, stem), "regularisation": row.get("regularisation") is True}
    return {"captions": given or (caption_from_name(stem),), "named": not given} | kept | visits


def _unpacked(text: str, spool: Path) -> Path:
    """A packed mask as an image: a square one, which is what the bits alone can say; the reader fits it."""
    try:
        unpacker = zlib.decompressobj()
        packed = unpacker.decompress(base64.b64decode(text, validate=True), _MAX_PACKED)
    except (binascii.Error, zlib.error) as error:
        raise InputError(f"the mask is neither a file nor base64 of zlib of packed bits ({error})") from None
    if unpacker.unconsumed_tail:
        raise InputError(f"the packed mask claims more than {_MAX_PACKED * 8} texels")
    side = round((len(packed) * 8) ** 0.5)
    if side * side != len(packed) * 8:
        raise InputError(f"the packed mask has {len(packed) * 8} bits, which is not a square; write masks as images")
    bits = np.unpackbits(np.frombuffer(packed, np.uint8)).reshape(side, side) * np.uint8(255)
    file = io.BytesIO()
    Image.fromarray(bits).save(file, format="PNG")
    return _spooled(file.getvalue(), spool)


def _spooled(content: bytes, spool: Path) -> Path:
    path = spool / f"{hashlib.sha256(content).hexdigest()[:32]}.png"
    if not path.exists():
        write_atomic(path, content, durable=False)
    return path


def _bytes(cell: Any) -> bytes:
    if isinstance(cell, dict) and cell.get("bytes") is not None:
        return cell["bytes"]
    if isinstance(cell, dict) and cell.get("path") and Path(cell["path"]).is_file():
        return Path(cell["path"]).read_bytes()
    if cell is None or isinstance(cell, dict):
        return b""  # the reader says that it is empty
    raise InputError(f"a cell of type {type(cell).__name__} is not an image; cast the column to Image")
