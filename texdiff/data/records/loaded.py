"""Records of what `datasets` loads: tables in files, and datasets of the hub."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from texdiff.data.columns import IN_TABLE, RecordTable, Row, TableOfImages
from texdiff.data.records.folder import Columns, captions_of
from texdiff.data.rows import CAPTION_COLUMNS, repeats_of
from texdiff.errors import InputError, one_line

_OTHERS = ("coverage", "repeats", "regularisation")
_ROWS = 8192  # whose captions are in memory at a time


def loaded_records(dataset: str, split: str, columns: Columns) -> RecordTable | None:
    """The records of a split; None of an absent one, but for `train`. Raises InputError in one line otherwise."""
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
        return None
    rows = table[split]
    if caption_column == CAPTION_COLUMNS[0]:
        caption_column = next((name for name in CAPTION_COLUMNS if name in rows.column_names), caption_column)
    for key, column in (("image", image_column), ("mask", mask_column), ("caption", caption_column)):
        if column not in rows.column_names:
            raise InputError(
                f"data.{key}_column: {dataset} has no column {column}; it has {', '.join(rows.column_names)}"
            )
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
    told = rows.select_columns([caption_column, *(name for name in _OTHERS if name in rows.column_names)])
    for start in range(0, len(rows), _ROWS):
        count = min(_ROWS, len(rows) - start)
        cells = told[start : start + count]
        images = {kind: _cells(place.rows[kind], place.called[kind], start, count) for kind in place.called}
        for number in range(count):
            name = place.name(start + number, "")
            row = {key: of[number] for key, of in cells.items()}
            image, mask, coverage = images["image"][number], images["mask"][number], row.get("coverage")
            if image is None or mask is None:
                lacks = "image" if image is None else "mask"
                raise InputError(f"{name}: has no {lacks}; give it one, or take it out of the dataset")
            yield Row(
                row=start + number,
                image=image,
                mask=mask,
                captions=captions_of(row[caption_column], caption_column, name),
                coverage=coverage if isinstance(coverage, float | int) else None,
                repeats=repeats_of(row, name),
                regularisation=row.get("regularisation") is True,
                surface=images["surface"][number] if "surface" in images else None,
                layout=images["layout"][number] if "layout" in images else None,
            )


def _cells(rows: Any, column: str, start: int, count: int) -> list[str | None]:
    """Of undecoded images IN_TABLE, a file's name, or None where there is nothing, without reading their bytes."""
    import pyarrow.compute as pc

    cells = rows.data.column(column).slice(start, count)
    held = pc.is_valid(pc.struct_field(cells, "bytes")).to_pylist()
    paths = pc.struct_field(cells, "path").to_pylist()
    return [IN_TABLE if inside else path for inside, path in zip(held, paths, strict=True)]
