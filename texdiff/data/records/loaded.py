"""Records of what `datasets` loads: tables in files, and datasets of the hub."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from texdiff.data.columns import IN_TABLE, RecordTable, Row, TableOfImages
from texdiff.data.records.folder import Columns
from texdiff.data.records.tables import TOLD, caption_column_of, table_row
from texdiff.errors import InputError, one_line

_ROWS = 8192  # whose captions are in memory at a time


def loaded_records(dataset: str, split: str, columns: Columns) -> RecordTable | None:
    """The records of a split; None of an absent one, but for `train`. Raises InputError in one line otherwise."""
    import datasets

    image_column, mask_column, _, layout_column = columns

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
        return None
    rows = table[split]
    caption_column = caption_column_of(dataset, rows.column_names, columns)
    called = {"image": image_column, "mask": mask_column}
    for kind, wanted in (("surface", "surface"), ("layout", layout_column)):
        if wanted and isinstance(rows.features.get(wanted), datasets.Image):
            called[kind] = wanted
    undecoded = {  # each alone: to read a cell is to read its row
        kind: rows.select_columns([column]).cast_column(column, datasets.Image(decode=False))
        for kind, column in called.items()
    }
    place = TableOfImages(f"{dataset} {split}", undecoded, called)
    return RecordTable.of(place, _rows(place, rows, caption_column))


def _rows(place: TableOfImages, rows: Any, caption_column: str) -> Iterator[Row]:
    told = rows.select_columns([caption_column, *(name for name in TOLD if name in rows.column_names)])
    for start in range(0, len(rows), _ROWS):
        count = min(_ROWS, len(rows) - start)
        cells = told[start : start + count]
        images = {kind: _cells(place.rows[kind], place.called[kind], start, count) for kind in place.called}
        for number in range(count):
            row, there = ({key: of[number] for key, of in all_of.items()} for all_of in (cells, images))
            yield table_row(start + number, place.name(start + number, ""), there, row, caption_column)


def _cells(rows: Any, column: str, start: int, count: int) -> list[str | None]:
    """Of undecoded images IN_TABLE, a file's name, or None where there is nothing, without reading their bytes."""
    import pyarrow.compute as pc

    cells = rows.data.column(column).slice(start, count)
    held = pc.is_valid(pc.struct_field(cells, "bytes")).to_pylist()
    paths = pc.struct_field(cells, "path").to_pylist()
    return [IN_TABLE if inside else path for inside, path in zip(held, paths, strict=True)]
