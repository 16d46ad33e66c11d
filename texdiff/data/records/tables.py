"""What records in tables have in common, whether `datasets` loads them or shards in storage are read."""

from collections.abc import Collection, Mapping
from typing import Any

from texdiff.data.columns import Row
from texdiff.data.records.folder import Columns, captions_of
from texdiff.data.rows import CAPTION_COLUMNS, repeats_of
from texdiff.errors import InputError

TOLD = ("coverage", "repeats", "regularisation")
"""What a table may say of a texture beside its captions."""


def caption_column_of(dataset: str, there: Collection[str], columns: Columns) -> str:
    """The name of the captions' column. Raises InputError where it is missing, or that of the images or masks."""
    image_column, mask_column, caption_column, _ = columns
    if caption_column == CAPTION_COLUMNS[0]:
        caption_column = next((name for name in CAPTION_COLUMNS if name in there), caption_column)
    for key, column in (("image", image_column), ("mask", mask_column), ("caption", caption_column)):
        if column not in there:
            raise InputError(f"data.{key}_column: {dataset} has no column {column}; it has {', '.join(there)}")
    return caption_column


def table_row(
    row: int, name: str, images: Mapping[str, str | None], cells: Mapping[str, Any], caption_column: str
) -> Row:
    """A row of a record's images, by kind, and of the other cells. Raises InputError, naming it, where it cannot be
    used."""
    image, mask, coverage = images["image"], images["mask"], cells.get("coverage")
    if image is None or mask is None:
        lacks = "image" if image is None else "mask"
        raise InputError(f"{name}: has no {lacks}; give it one, or take it out of the dataset")
    return Row(
        row=row,
        image=image,
        mask=mask,
        captions=captions_of(cells[caption_column], caption_column, name),
        coverage=coverage if isinstance(coverage, float | int) else None,
        repeats=repeats_of(cells, name),
        regularisation=cells.get("regularisation") is True,
        surface=images.get("surface"),
        layout=images.get("layout"),
    )
