"""Records of a folder that has a metadata.jsonl, as `texdiff prepare` and `datasets`' imagefolder have it."""

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from texdiff.data.cache.keys import as_keys, key_of
from texdiff.data.columns import Folder, Keys, RecordTable, Row
from texdiff.data.image_source import StoredFile, file_state
from texdiff.data.records.kept import kept_records
from texdiff.data.rows import caption_of, read_rows, repeats_of
from texdiff.errors import InputError
from texdiff.paths import escapes

_SURFACE_KEY = "surface_file_name"

Columns = tuple[str, str, str, str | None]
"""Of image, mask, caption and, where it is asked for, layout map."""


def folder_records(metadata: Path, columns: Columns, missing_ok: bool) -> RecordTable:
    """The records of a split. Raises InputError, naming the line, for one that can't be used, and where there is none;
    and, but for `missing_ok`, for a file that is missing."""
    folder = Folder(os.path.join(metadata.parent, ""))
    state, dataset = StoredFile(str(metadata)).signature(), str(metadata.parent.parent)
    records = kept_records(state, dataset, folder, lambda: metadata_rows(metadata, str(metadata), columns), columns)
    if not records:
        raise InputError(f"{metadata}: has no texture; prepare the dataset again")
    for kind, key in zip(("image", "mask", "surface", "layout"), keys_of(columns), strict=True):
        if key is not None:
            seen = _look(records, kind, key, metadata, exists=kind != "surface" and not missing_ok)
            if len(seen) == len(records):
                records.looks[kind] = seen
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


def keys_of(columns: Columns) -> tuple[str, str, str, str | None]:
    """What the file calls images, masks, surfaces and, where they are asked for, layout maps, as datasets' imagefolder
    has it."""
    image, mask, _, layout = columns
    image_key, mask_key = ("file_name" if name == "image" else f"{name}_file_name" for name in (image, mask))
    return image_key, mask_key, _SURFACE_KEY, f"{layout}_file_name" if layout else None


def metadata_rows(metadata: Path, shown: str, columns: Columns) -> Iterator[Row]:
    """The rows of a metadata.jsonl, which messages call `shown`. Raises InputError for one that can't be used."""
    image_key, mask_key, surface_key, layout_key = keys_of(columns)
    for number, row in read_rows(metadata):
        where = f"{shown}, line {number}"
        if isinstance(row, str):
            raise InputError(f"{where}: {row}; write the dataset again")
        coverage = row.get("coverage")
        yield Row(
            row=number,
            image=_named(row, image_key, where),
            mask=_named(row, mask_key, where),
            captions=captions_of(caption_of(row, columns[2]), columns[2], where),
            coverage=coverage if isinstance(coverage, float | int) else None,
            repeats=repeats_of(row, where),
            regularisation=row.get("regularisation") is True,
            surface=None if row.get(surface_key) is None else _named(row, surface_key, where),
            layout=None if layout_key is None or row.get(layout_key) is None else _named(row, layout_key, where),
        )


def _named(row: dict[str, object], key: str, where: str) -> str:
    """The name of a file in the folder."""
    name = row.get(key)
    if not isinstance(name, str):
        raise InputError(f"{where}: has no {key}; training without it would be wrong, so prepare the dataset again")
    upwards = os.pardir in name and os.path.normpath(name).split(os.sep)[0] == os.pardir
    if upwards or "\0" in name or name.startswith(os.sep):
        raise InputError(f"{where}: {key} {name!r} leads out of the dataset's folder; give a path inside it")
    return name


def _look(records: RecordTable, kind: str, key: str, metadata: Path, exists: bool) -> Keys:
    """Look at the files of one kind, once each; the keys of what is seen of those that are there. Raises InputError for
    one that is a link out of the folder, or where it has to exist and does not."""

    def seen() -> Iterator[bytes]:
        folder = str(metadata.parent)
        for line, name in records.cells("row", kind):
            if name is None:
                continue
            path = f"{folder}{os.sep}{name}"
            status = _status(path, os.lstat)
            is_file = status is not None and stat.S_ISREG(status.st_mode)
            if escapes(path, os.path.dirname(folder), is_link=not is_file):
                raise InputError(
                    f"{metadata}, line {line}: {key} {name} is a link out of the dataset's folder; put the file itself "
                    "there"
                )
            if not is_file:
                status = _status(path, os.stat)
            if status is not None and stat.S_ISREG(status.st_mode):
                yield key_of(file_state(path, status))
            elif exists:
                raise InputError(
                    f"{path}: does not exist, but {metadata}, line {line} names it; prepare the dataset again"
                )

    return as_keys(seen())


def _status(path: str, ask: Callable[[str], os.stat_result]) -> os.stat_result | None:
    try:
        return ask(path)
    except OSError:
        return None
