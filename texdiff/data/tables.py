"""Datasets that are a table: metadata.jsonl or metadata.csv beside pictures, Parquet, a saved dataset, the hub's.

The picture's column is called image, texture or diffuse, the mask's mask, the caption's text, caption or prompt; in
metadata files the first two may end in _file_name, and file_name alone is the picture. A mask that is a string is
taken as base64 of zlib of the mask's bits, packed row by row, high bit first (the Texture-Anything dataset has these).
"""

import base64
import binascii
import csv
import hashlib
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from texdiff.data.asset import Asset, key_of
from texdiff.data.captions import caption_from_name, one_line, read_text
from texdiff.data.reading import write_whole
from texdiff.errors import InputError

_IMAGE = ("image", "texture", "diffuse")
_TEXT = ("text", "caption", "prompt", "captions")
_MAX_PACKED = 1 << 25  # bytes after zlib: a mask of 16384 x 16384


def find_metadata(folder: Path) -> list[Path]:
    """metadata.jsonl or metadata.csv in a folder and, one level down, in its splits."""
    places = [folder, *sorted(path for path in folder.iterdir() if path.is_dir())] if folder.is_dir() else []
    found = [place / f"metadata.{suffix}" for place in places for suffix in ("jsonl", "csv")]
    return [path for path in found if path.is_file()]


def read_metadata(path: Path, root: Path, spool: Path) -> Iterator[Asset]:
    """The rows of a metadata file as assets; packed masks are written into `spool` as pictures."""
    for number, row in _rows(path):
        where = f"{path}, line {number}"
        name = next((row[key] for key in ("file_name", *(f"{c}_file_name" for c in _IMAGE)) if row.get(key)), None)
        if not isinstance(name, str):
            raise InputError(f"{where}: no file_name: name the picture by its path relative to {path.parent}")
        picture = path.parent / name
        mask = _mask(row, path.parent, spool, where) or picture
        yield Asset(
            path=picture,
            mask=mask,
            label=_label(picture, root),
            key=key_of(picture, mask),
            split="" if path.parent == root else path.parent.name,
            **_credit(row, picture.stem),
        )


def read_table(source: str, spool: Path) -> Iterator[Asset]:
    """The rows of anything `datasets` can load, row by row: pictures and masks are written into `spool`."""
    import datasets

    datasets.disable_progress_bars()
    folder = Path(source)
    try:
        saved = any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))
        loaded = datasets.load_from_disk(source) if saved else datasets.load_dataset(source)
    except Exception as error:  # the library raises all kinds for a name it can't load
        raise InputError(f"{source}: can't be read as a dataset ({one_line(str(error)) or type(error)})") from None
    splits = loaded if isinstance(loaded, dict) else {"": loaded}
    for split, rows in splits.items():
        picture = next((name for name in _IMAGE if name in rows.column_names), None)
        if picture is None or "mask" not in rows.column_names:
            raise InputError(f"{source}: needs columns image, mask and text; it has {', '.join(rows.column_names)}")
        for name in (picture, "mask"):
            if isinstance(rows.features[name], datasets.Image):
                rows = rows.cast_column(name, datasets.Image(decode=False))
        for number, row in enumerate(rows):
            label = f"{split}/{number:08d}".lstrip("/")
            where = f"{source} {label}"
            texture = _spooled(_bytes(row[picture], where), spool)
            if isinstance(row["mask"], str):
                mask = _unpacked(row["mask"], spool, where)
            else:
                mask = _spooled(_bytes(row["mask"], where), spool)
            name = row.get("asset_id") if isinstance(row.get("asset_id"), str) else label.replace("/", "-")
            yield Asset(
                path=texture,
                mask=mask,
                label=f"{label}/{name}",
                key=hashlib.sha256(f"{texture.name} {mask.name}".encode()).hexdigest()[:24],
                split=split,
                **_credit(row, name),
            )


def _credit(row: dict[str, Any], stem: str) -> dict[str, Any]:
    texts = next((row[key] for key in _TEXT if row.get(key)), ())
    texts = [texts] if isinstance(texts, str) else texts
    given = tuple(dict.fromkeys(one_line(text) for text in texts if isinstance(text, str) and text.strip()))
    kept = {key: row[key] for key in ("license", "author") if isinstance(row.get(key), str) and row[key] != "unknown"}
    return {"captions": given or (caption_from_name(stem),), "named": not given} | kept


def _mask(row: dict[str, Any], folder: Path, spool: Path, where: str) -> Path | None:
    if isinstance(row.get("mask_file_name"), str):
        return folder / row["mask_file_name"]
    if isinstance(row.get("mask"), str) and row["mask"]:
        named = folder / row["mask"]
        return named if len(row["mask"]) < 256 and named.is_file() else _unpacked(row["mask"], spool, where)
    return None


def _unpacked(text: str, spool: Path, where: str) -> Path:
    """A packed mask as a picture: a square one, which is what the bits alone can say; the reader fits it."""
    try:
        packed = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), _MAX_PACKED)
    except (binascii.Error, zlib.error) as error:
        raise InputError(f"{where}: the mask is neither a file nor base64 of zlib of packed bits ({error})") from None
    side = round((len(packed) * 8) ** 0.5)
    if side * side != len(packed) * 8:
        raise InputError(f"{where}: the mask has {len(packed) * 8} bits, which is no square: write masks as pictures")
    bits = np.unpackbits(np.frombuffer(packed, np.uint8)).reshape(side, side) * np.uint8(255)
    file = io.BytesIO()
    Image.fromarray(bits).save(file, format="PNG")
    return _spooled(file.getvalue(), spool)


def _spooled(content: bytes, spool: Path) -> Path:
    path = spool / f"{hashlib.sha256(content).hexdigest()[:32]}.png"
    if not path.exists():
        write_whole(path, content)
    return path


def _bytes(cell: Any, where: str) -> bytes:
    if isinstance(cell, dict) and cell.get("bytes") is not None:
        return cell["bytes"]
    if isinstance(cell, dict) and cell.get("path") and Path(cell["path"]).is_file():
        return Path(cell["path"]).read_bytes()
    if cell is None or isinstance(cell, dict):
        return b""  # the reader says that it is empty
    raise InputError(f"{where}: a cell of type {type(cell).__name__} is no picture: cast the column to Image")


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    text = read_text(path)
    if path.suffix == ".csv":
        csv.field_size_limit(1 << 27)  # packed masks are long
        reader = csv.DictReader(io.StringIO(text))
        for row in reader:
            yield reader.line_num, row
        return
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield number, _object(line, f"{path}, line {number}")


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where}: not JSON ({error})") from None
    if not isinstance(row, dict):
        raise InputError(f"{where}: not a JSON object")
    return row


def _label(picture: Path, root: Path) -> str:
    return picture.relative_to(root).as_posix() if picture.is_relative_to(root) else picture.name
