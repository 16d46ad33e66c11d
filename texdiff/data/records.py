"""A dataset's records: where each texture, mask and caption comes from."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from texdiff.data.image_source import Source, StoredFile, TableCell
from texdiff.data.record import Record
from texdiff.data.rows import CAPTION_COLUMNS, caption_of, read_rows
from texdiff.errors import InputError, one_line
from texdiff.paths import escapes

_MASKS_LOOKED_AT = 1000
_SURFACE_KEY = "surface_file_name"


def read_records(
    dataset: str,
    split: str,
    image_column: str = "image",
    mask_column: str = "mask",
    caption_column: str = "text",
    needs_surface: bool = False,
    missing_ok: bool = False,
) -> list[Record]:
    """The records of `split` in a folder written by `texdiff prepare`, or in any dataset that `datasets` can load.

    An absent split gives an empty list, except `train`. Raises InputError in one line otherwise, also where
    `needs_surface` and a texture has no surface file, and, but for `missing_ok`, where a file is missing.
    """
    records = _read_records(dataset, split, image_column, mask_column, caption_column, missing_ok)
    without = [record.name for record in records if record.surface is None]
    if needs_surface and without:
        others = f" (nor have {len(without) - 1} others)" if len(without) > 1 else ""
        raise InputError(
            f"{without[0]}: has no surface file{others}, which mask.weight surface needs; prepare the dataset again "
            "from the meshes, or set mask.weight to texel"
        )
    return records


def _read_records(
    dataset: str, split: str, image_column: str, mask_column: str, caption_column: str, missing_ok: bool
) -> list[Record]:
    folder = Path(dataset)
    metadata = folder / "train" / "metadata.jsonl"
    usual = (image_column, mask_column) == ("image", "mask")
    if metadata.is_file() and not (usual and _has_other_keys(metadata)):
        metadata = folder / split / "metadata.jsonl"
        if not metadata.is_file():
            return []
        return _folder_records(metadata, image_column, mask_column, caption_column, missing_ok)
    if usual and caption_column in CAPTION_COLUMNS and folder.exists():
        from texdiff.data.cache.encoders import default_cache_dir
        from texdiff.data.layouts import is_table, layout_records

        if not is_table(folder):
            return layout_records(dataset, split, default_cache_dir() / "unpacked", missing_ok)
    return _loaded_records(dataset, split, image_column, mask_column, caption_column)


def _has_other_keys(metadata: Path) -> bool:
    """Whether the first row names its image or mask otherwise than `texdiff prepare` does."""
    row = next((row for _, row in read_rows(metadata)), "")
    return isinstance(row, dict) and bool(row) and not {"file_name", "mask_file_name"} <= row.keys()


def mean_coverage(records: Sequence[Record]) -> float:
    """Mean covered share of the textures, 0-1. Where the dataset does not give it, masks are read: of a large one
    a thousand or so, evenly spread, so that a start does not take the longer the larger it is."""
    if any(r.coverage is None for r in records):
        records = records[:: -(-len(records) // _MASKS_LOOKED_AT)]
    return float(np.mean([r.read_mask().mean() if r.coverage is None else r.coverage for r in records]))


def _folder_records(
    metadata: Path, image_column: str, mask_column: str, caption_column: str, missing_ok: bool
) -> list[Record]:
    # The names of columns and of their keys in the file, as datasets' imagefolder has it.
    image_key, mask_key = (
        "file_name" if column == "image" else f"{column}_file_name" for column in (image_column, mask_column)
    )
    records = []
    folder = str(metadata.parent)
    for number, row in read_rows(metadata):
        where = f"{metadata}, line {number}"
        if isinstance(row, str):
            raise InputError(f"{where}: {row}; write the dataset again")
        image, mask = (_inside(folder, row, key, where, exists=not missing_ok) for key in (image_key, mask_key))
        coverage = row.get("coverage")
        has_surface = row.get(_SURFACE_KEY) is not None
        records.append(
            Record(
                name=image,
                image=StoredFile(image),
                mask=StoredFile(mask),
                captions=_captions(caption_of(row, caption_column), caption_column, where),
                coverage=coverage if isinstance(coverage, float | int) else None,
                surface=StoredFile(_inside(folder, row, _SURFACE_KEY, where, exists=False)) if has_surface else None,
            )
        )
    if not records:
        raise InputError(f"{metadata}: has no texture; prepare the dataset again")
    return records


def _loaded_records(dataset: str, split: str, image_column: str, mask_column: str, caption_column: str) -> list[Record]:
    import datasets

    datasets.disable_progress_bars()
    try:
        saved = any((Path(dataset) / name).is_file() for name in ("dataset_dict.json", "state.json"))
        loaded = datasets.load_from_disk(dataset) if saved else datasets.load_dataset(dataset)
        table = loaded if isinstance(loaded, dict) else {"train": loaded}
    except Exception as error:  # the library raises a dozen kinds; each is the user's name for a dataset being wrong
        raise InputError(
            f"data.dataset: {dataset} cannot be read as a folder or from the hub ({one_line(error)})"
        ) from None
    if split not in table:
        if split == "train":
            raise InputError(f"data.dataset: {dataset} has no split `train`; it has {', '.join(map(str, table))}")
        return []
    rows = table[split]
    if caption_column == CAPTION_COLUMNS[0]:
        caption_column = next((name for name in CAPTION_COLUMNS if name in rows.column_names), caption_column)
    for key, column in (("image", image_column), ("mask", mask_column), ("caption", caption_column)):
        if column not in rows.column_names:
            raise InputError(
                f"data.{key}_column: {dataset} has no column {column}; it has {', '.join(rows.column_names)}"
            )
    rows = rows.cast_column(image_column, datasets.Image(decode=False))
    rows = rows.cast_column(mask_column, datasets.Image(decode=False))

    surfaces: list[Source | None] = [None] * len(rows)
    if isinstance(rows.features.get("surface"), datasets.Image):
        rows = rows.cast_column("surface", datasets.Image(decode=False))
        valid = rows.data.column("surface").is_valid().to_pylist()
        surfaces = [source if there else None for source, there in zip(_sources(rows, "surface"), valid, strict=True)]
    images, masks = (_sources(rows, column) for column in (image_column, mask_column))
    records = []
    for index, (image, mask, text) in enumerate(zip(images, masks, rows[caption_column][:], strict=True)):
        name = f"{dataset} {split}[{index}]"
        captions = _captions(text, caption_column, name)
        records.append(Record(name=name, image=image, mask=mask, captions=captions, surface=surfaces[index]))
    return records


def _sources(rows: Any, column: str) -> list[Source]:
    """The cells of a column of undecoded images, without reading their bytes."""
    import pyarrow.compute as pc

    cells = rows.data.column(column)
    held = pc.is_valid(pc.struct_field(cells, "bytes")).to_pylist()
    paths = pc.struct_field(cells, "path").to_pylist()
    return [
        TableCell(rows, index, column, rows._fingerprint) if inside else StoredFile(path)
        for index, (inside, path) in enumerate(zip(held, paths, strict=True))
    ]


def _inside(folder: str, row: dict[str, object], key: str, where: str, exists: bool = True) -> str:
    name = row.get(key)
    if not isinstance(name, str):
        raise InputError(f"{where}: has no {key}; training without it would be wrong, so prepare the dataset again")
    path = os.path.join(folder, name)
    upwards = os.pardir in name and os.path.normpath(name).split(os.sep)[0] == os.pardir
    if upwards or "\0" in name or os.path.isabs(name):
        raise InputError(f"{where}: {key} {name!r} leads out of the dataset's folder; give a path inside it")
    if escapes(path, os.path.dirname(folder)):
        raise InputError(f"{where}: {key} {name} is a link out of the dataset's folder; put the file itself there")
    if exists and not os.path.isfile(path):
        raise InputError(f"{path}: does not exist, but {where} names it; prepare the dataset again")
    return path


def _captions(value: object, column: str, where: str) -> tuple[str, ...]:
    captions = [value] if isinstance(value, str) else value
    if not isinstance(captions, list) or not captions or not all(isinstance(c, str) for c in captions):
        raise InputError(f"{where}: {column} is neither a caption nor a list of captions; write one")
    return tuple(captions)
