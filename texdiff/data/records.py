"""A dataset's records: where each texture, mask and caption comes from."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from texdiff.data.image_source import Source, StoredFile, TableCell
from texdiff.data.mixture import SourceSettings
from texdiff.data.record import Record
from texdiff.data.rows import CAPTION_COLUMNS, caption_of, read_rows, repeats_of
from texdiff.errors import InputError, one_line
from texdiff.paths import escapes

_MASKS_LOOKED_AT = 1000
_SURFACE_KEY = "surface_file_name"

Columns = tuple[str, str, str, str | None]
"""Of image, mask, caption and, where it is asked for, layout map."""


def read_records(
    dataset: str,
    split: str,
    image_column: str = "image",
    mask_column: str = "mask",
    caption_column: str = "text",
    needs_surface: bool = False,
    missing_ok: bool = False,
    layout_column: str | None = None,
) -> list[Record]:
    """The records of `split` in a folder written by `texdiff prepare`, or in any dataset that `datasets` can load.

    With `layout_column` the records have the map that is in that column; without, none. An absent split gives an empty
    list, except `train`. Raises InputError in one line otherwise, also where `needs_surface` and a texture has no
    surface file, or no layout map where one is asked for, and, but for `missing_ok`, where a file is missing.
    """
    columns = (image_column, mask_column, caption_column, layout_column)
    records = _read_records(dataset, split, columns, missing_ok)
    without = [record.name for record in records if record.surface is None]
    if needs_surface and without:
        others = f" (nor have {len(without) - 1} others)" if len(without) > 1 else ""
        raise InputError(
            f"{without[0]}: has no surface file{others}, which mask.weight surface needs; prepare the dataset again "
            "from the meshes, or set mask.weight to texel"
        )
    without = [record.name for record in records if layout_column and record.layout is None]
    if without:
        others = f" (nor have {len(without) - 1} others)" if len(without) > 1 else ""
        raise InputError(
            f"{without[0]}: has no layout map{others} in column {layout_column}; prepare the dataset again from the "
            "meshes, or name its column in data.layout_column"
        )
    return records


def read_sources(
    sources: Sequence[SourceSettings], split: str, columns: Columns, *, needs_surface: bool, missing_ok: bool
) -> list[Record]:
    """The records of `split` of all sources, each knowing its own, with its prefix before its captions.

    Those that are held out are dealt out evenly, so that the first few are of every source: validation looks at the
    first. They count alike, whatever their sources weigh, so what is measured does not change with the weights.
    Raises InputError as `read_records` does, naming the source where there are several.
    """
    image, mask, caption, layout = columns
    found: list[tuple[float, Record]] = []
    for number, source in enumerate(sources):
        try:
            records = read_records(source.path, split, image, mask, caption, needs_surface, missing_ok, layout)
        except InputError as error:
            if len(sources) == 1:
                raise
            raise InputError(f"data.dataset[{number}].path: {str(error).removeprefix('data.dataset: ')}") from None
        for place, record in enumerate(records):
            captions = record.captions
            if source.caption_prefix:
                captions = tuple(one_line(f"{source.caption_prefix} {caption}") for caption in captions)
            at = float(number) if split == "train" else (place + 0.5) / len(records)
            found.append((at, replace(record, source=number, captions=captions)))
    return [record for _, record in sorted(found, key=lambda pair: pair[0])]


def _read_records(dataset: str, split: str, columns: Columns, missing_ok: bool) -> list[Record]:
    image_column, mask_column, caption_column, layout_column = columns
    folder = Path(dataset)
    metadata = folder / "train" / "metadata.jsonl"
    usual = (image_column, mask_column) == ("image", "mask") and layout_column in (None, "layout")
    if metadata.is_file() and not (usual and _has_other_keys(metadata)):
        metadata = folder / split / "metadata.jsonl"
        if not metadata.is_file():
            return []
        return _folder_records(metadata, columns, missing_ok)
    if usual and caption_column in CAPTION_COLUMNS and folder.exists():
        from texdiff.data.cache.encoders import default_cache_dir
        from texdiff.data.layouts import is_table, layout_records

        if not is_table(folder):
            found = layout_records(dataset, split, default_cache_dir() / "unpacked", missing_ok)
            return [record if layout_column else replace(record, layout=None) for record in found]
    return _loaded_records(dataset, split, columns)


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


def _folder_records(metadata: Path, columns: Columns, missing_ok: bool) -> list[Record]:
    image_column, mask_column, caption_column, layout_column = columns
    # The names of columns and of their keys in the file, as datasets' imagefolder has it.
    image_key, mask_key = (
        "file_name" if column == "image" else f"{column}_file_name" for column in (image_column, mask_column)
    )
    layout_key = f"{layout_column}_file_name" if layout_column else None
    records = []
    folder = str(metadata.parent)
    for number, row in read_rows(metadata):
        where = f"{metadata}, line {number}"
        if isinstance(row, str):
            raise InputError(f"{where}: {row}; write the dataset again")
        image, mask = (_inside(folder, row, key, where, exists=not missing_ok) for key in (image_key, mask_key))
        coverage = row.get("coverage")
        records.append(
            Record(
                name=image,
                image=StoredFile(image),
                mask=StoredFile(mask),
                captions=_captions(caption_of(row, caption_column), caption_column, where),
                coverage=coverage if isinstance(coverage, float | int) else None,
                repeats=repeats_of(row, where),
                regularisation=row.get("regularisation") is True,
                surface=_given(folder, row, _SURFACE_KEY, where, exists=False),
                layout=_given(folder, row, layout_key, where, exists=not missing_ok) if layout_key else None,
            )
        )
    if not records:
        raise InputError(f"{metadata}: has no texture; prepare the dataset again")
    return records


def _loaded_records(dataset: str, split: str, columns: Columns) -> list[Record]:
    import datasets

    image_column, mask_column, caption_column, layout_column = columns

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
    images, masks = (_sources(rows, column) for column in (image_column, mask_column))
    surfaces, layouts = (_sources_where_given(rows, column) for column in ("surface", layout_column))
    marked = [name for name in ("repeats", "regularisation") if name in rows.column_names]
    marks = rows.select_columns(marked).to_list() if marked else [{}] * len(rows)
    records = []
    for index, text in enumerate(rows[caption_column][:]):
        name = f"{dataset} {split}[{index}]"
        records.append(
            Record(
                name=name,
                image=images[index],
                mask=masks[index],
                captions=_captions(text, caption_column, name),
                repeats=repeats_of(marks[index], name),
                regularisation=marks[index].get("regularisation") is True,
                surface=surfaces[index],
                layout=layouts[index],
            )
        )
    return records


def _sources_where_given(rows: Any, column: str | None) -> Sequence[Source | None]:
    """The cells of a column of images, None where there is nothing in one, or no such column."""
    import datasets

    if column is None or not isinstance(rows.features.get(column), datasets.Image):
        return [None] * len(rows)
    rows = rows.cast_column(column, datasets.Image(decode=False))
    valid = rows.data.column(column).is_valid().to_pylist()
    return [source if there else None for source, there in zip(_sources(rows, column), valid, strict=True)]


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


def _given(folder: str, row: dict[str, object], key: str, where: str, exists: bool) -> StoredFile | None:
    """The file under a key that a row may lack."""
    return None if row.get(key) is None else StoredFile(_inside(folder, row, key, where, exists))


def _captions(value: object, column: str, where: str) -> tuple[str, ...]:
    captions = [value] if isinstance(value, str) else value
    if not isinstance(captions, list) or not captions or not all(isinstance(c, str) for c in captions):
        raise InputError(f"{where}: {column} is neither a caption nor a list of captions; write one")
    return tuple(captions)
