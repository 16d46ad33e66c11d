"""A dataset's records: where each texture, mask and caption comes from."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from texdiff.data.columns import Column, RecordTable, join, lacking, numbers_of, pick
from texdiff.data.mixture import SourceSettings
from texdiff.data.record import Record
from texdiff.data.records.folder import Columns, folder_records, has_other_keys
from texdiff.data.records.in_storage import stored_records
from texdiff.data.records.loaded import loaded_records
from texdiff.data.rows import CAPTION_COLUMNS
from texdiff.errors import InputError, one_line
from texdiff.storage import is_address

__all__ = ["Column", "mean_coverage", "pick", "read_records", "read_sources"]

_MASKS_LOOKED_AT = 1000


def read_records(
    dataset: str,
    split: str,
    image_column: str = "image",
    mask_column: str = "mask",
    caption_column: str = "text",
    needs_surface: bool = False,
    missing_ok: bool = False,
    layout_column: str | None = None,
) -> Sequence[Record]:
    """The records of `split` in a folder written by `texdiff prepare`, or in any dataset that `datasets` can load.

    With `layout_column` the records have the map that is in that column; without, none. An absent split gives an empty
    list, except `train`. Raises InputError in one line otherwise, also where `needs_surface` and a texture has no
    surface file, or no layout map where one is asked for, and, but for `missing_ok`, where a file is missing.
    """
    columns = (image_column, mask_column, caption_column, layout_column)
    records = _read_records(dataset, split, columns, missing_ok)
    if needs_surface and len(without := lacking(records, "surface")):
        raise InputError(
            f"{records[without[0]].name}: has no surface file{_others(without)}, which mask.weight surface needs; "
            "prepare the dataset again from the meshes, or set mask.weight to texel"
        )
    if layout_column and len(without := lacking(records, "layout")):
        raise InputError(
            f"{records[without[0]].name}: has no layout map{_others(without)} in column {layout_column}; prepare the "
            "dataset again from the meshes, or name its column in data.layout_column"
        )
    return records


def _others(without: NDArray[np.int64]) -> str:
    return f" (nor have {len(without) - 1} others)" if len(without) > 1 else ""


def read_sources(
    sources: Sequence[SourceSettings], split: str, columns: Columns, *, needs_surface: bool, missing_ok: bool
) -> Sequence[Record]:
    """The records of `split` of all sources, each knowing its own, with its prefix before its captions.

    Those that are held out are dealt out evenly, so that the first few are of every source: validation looks at the
    first. They count alike, whatever their sources weigh, so what is measured does not change with the weights.
    Raises InputError as `read_records` does, naming the source where there are several.
    """
    image, mask, caption, layout = columns
    parts = []
    for number, source in enumerate(sources):
        try:
            records = read_records(source.path, split, image, mask, caption, needs_surface, missing_ok, layout)
        except InputError as error:
            if len(sources) == 1:
                raise
            raise InputError(f"data.dataset[{number}].path: {str(error).removeprefix('data.dataset: ')}") from None
        parts.append(_prefixed(records, source.caption_prefix) if source.caption_prefix else records)
    together = join(parts)
    if split == "train" or len(parts) == 1:
        return together
    at = np.concatenate([(np.arange(len(part)) + 0.5) / max(1, len(part)) for part in parts])
    return pick(together, np.argsort(at, kind="stable").tolist())


def _prefixed(records: Sequence[Record], prefix: str) -> Sequence[Record]:
    told = Column[tuple[str, ...]](records, "captions")
    captions = ([one_line(f"{prefix} {text}") for text in texts] for texts in told)
    if isinstance(records, RecordTable):
        return records.with_captions(captions)
    return [replace(record, captions=tuple(texts)) for record, texts in zip(records, captions, strict=True)]


def _read_records(dataset: str, split: str, columns: Columns, missing_ok: bool) -> Sequence[Record]:
    image_column, mask_column, caption_column, layout_column = columns
    if is_address(dataset):
        return stored_records(dataset, split, columns, missing_ok) or []
    folder = Path(dataset)
    metadata = folder / "train" / "metadata.jsonl"
    usual = (image_column, mask_column) == ("image", "mask") and layout_column in (None, "layout")
    if metadata.is_file() and not (usual and has_other_keys(metadata)):
        metadata = folder / split / "metadata.jsonl"
        return folder_records(metadata, columns, missing_ok) if metadata.is_file() else []
    if usual and caption_column in CAPTION_COLUMNS and folder.exists():
        from texdiff.data.layouts import is_table, layout_records
        from texdiff.storage import default_cache_dir

        if not is_table(folder):
            found = layout_records(dataset, split, default_cache_dir() / "unpacked", missing_ok)
            return [record if layout_column else replace(record, layout=None) for record in found]
    return loaded_records(dataset, split, columns) or []


def mean_coverage(records: Sequence[Record]) -> float:
    """Mean covered share of the textures, 0-1. Where the dataset does not give it, masks are read: of a large one
    a thousand or so, evenly spread, so that a start does not take the longer the larger it is."""
    given = numbers_of(records, "coverage").astype(float, copy=False)
    looked_at = slice(None, None, -(-len(records) // _MASKS_LOOKED_AT) if np.isnan(given).any() else 1)
    given = given[looked_at].copy()
    for place in np.flatnonzero(np.isnan(given)).tolist():
        given[place] = records[place * (looked_at.step or 1)].read_mask().mean()
    return float(given.mean())
