"""Records of a folder that has a metadata.jsonl, as `texdiff prepare` and `datasets`' imagefolder have it."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from texdiff.data.columns import Folder, RecordTable, Row
from texdiff.data.rows import caption_of, read_rows, repeats_of
from texdiff.errors import InputError
from texdiff.paths import escapes

_SURFACE_KEY = "surface_file_name"

Columns = tuple[str, str, str, str | None]
"""Of image, mask, caption and, where it is asked for, layout map."""


def folder_records(metadata: Path, columns: Columns, missing_ok: bool) -> RecordTable:
    """The records of a split. Raises InputError, naming the line, for one that can't be used, and where there is none;
    and, but for `missing_ok`, for a file that is missing."""
    records = RecordTable.of(Folder(os.path.join(metadata.parent, "")), _rows(metadata, columns, missing_ok))
    if not records:
        raise InputError(f"{metadata}: has no texture; prepare the dataset again")
    return records


def has_other_keys(metadata: Path) -> bool:
    """Whether the first row names its image or mask otherwise than `texdiff prepare` does."""
    row = next((row for _, row in read_rows(metadata)), "")
    return isinstance(row, dict) and bool(row) and not {"file_name", "mask_file_name"} <= row.keys()


def captions_of(value: object, column: str, where: str) -> list[str]:
    """The captions in a cell. Raises InputError where there are none."""
    captions = [value] if isinstance(value, str) else value
    if not isinstance(captions, list) or not captions or not all(isinstance(c, str) for c in captions):
        raise InputError(f"{where}: {column} is neither a caption nor a list of captions; write one")
    return captions


def _rows(metadata: Path, columns: Columns, missing_ok: bool) -> Iterator[Row]:
    image_column, mask_column, caption_column, layout_column = columns
    # The names of columns and of their keys in the file, as datasets' imagefolder has it.
    image_key, mask_key = (
        "file_name" if column == "image" else f"{column}_file_name" for column in (image_column, mask_column)
    )
    layout_key = f"{layout_column}_file_name" if layout_column else None
    folder = str(metadata.parent)
    for number, row in read_rows(metadata):
        where = f"{metadata}, line {number}"
        if isinstance(row, str):
            raise InputError(f"{where}: {row}; write the dataset again")
        coverage = row.get("coverage")
        yield Row(
            row=number,
            image=_inside(folder, row, image_key, where, exists=not missing_ok),
            mask=_inside(folder, row, mask_key, where, exists=not missing_ok),
            captions=captions_of(caption_of(row, caption_column), caption_column, where),
            coverage=coverage if isinstance(coverage, float | int) else None,
            repeats=repeats_of(row, where),
            regularisation=row.get("regularisation") is True,
            surface=_given(folder, row, _SURFACE_KEY, where, exists=False),
            layout=_given(folder, row, layout_key, where, exists=not missing_ok) if layout_key else None,
        )


def _inside(folder: str, row: dict[str, object], key: str, where: str, exists: bool = True) -> str:
    """The name of a file in the folder."""
    name = row.get(key)
    if not isinstance(name, str):
        raise InputError(f"{where}: has no {key}; training without it would be wrong, so prepare the dataset again")
    upwards = os.pardir in name and os.path.normpath(name).split(os.sep)[0] == os.pardir
    if upwards or "\0" in name or name.startswith(os.sep):
        raise InputError(f"{where}: {key} {name!r} leads out of the dataset's folder; give a path inside it")
    path = f"{folder}{os.sep}{name}"
    try:
        is_file = stat.S_ISREG(os.lstat(path).st_mode)  # once for all: of a million textures it takes seconds
    except OSError:
        is_file = False
    if escapes(path, os.path.dirname(folder), is_link=not is_file):
        raise InputError(f"{where}: {key} {name} is a link out of the dataset's folder; put the file itself there")
    if exists and not is_file and not os.path.isfile(path):
        raise InputError(f"{path}: does not exist, but {where} names it; prepare the dataset again")
    return name


def _given(folder: str, row: dict[str, object], key: str, where: str, exists: bool) -> str | None:
    """The file under a key that a row may lack."""
    return None if row.get(key) is None else _inside(folder, row, key, where, exists)
