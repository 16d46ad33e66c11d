"""Tables of a dataset, row by row: metadata and captions in .jsonl or .csv."""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from texdiff.errors import InputError, one_line

CAPTION_COLUMNS = ("text", "caption", "prompt", "captions")


def caption_of(row: Mapping[str, Any], column: str = CAPTION_COLUMNS[0]) -> Any:
    """What a row has in its caption's column; where that is the usual one and empty, in the next of them that is
    not."""
    columns = (column, *CAPTION_COLUMNS[1:]) if column == CAPTION_COLUMNS[0] else (column,)
    return next((row[name] for name in columns if row.get(name)), row.get(column))


def repeats_of(row: Mapping[str, Any], where: str) -> int:
    """A row's repeats, 1 where it says nothing. Raises InputError where that is no whole number from 1 on."""
    repeats = row.get("repeats", 1)
    if isinstance(repeats, str) and repeats.isdecimal():  # in a .csv
        repeats = int(repeats)
    if not isinstance(repeats, int) or isinstance(repeats, bool) or repeats < 1:
        raise InputError(f"{where}: repeats must be a whole number of at least 1 (got {repeats})")
    return repeats


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Rows of a .csv or .jsonl and their line numbers; where one cannot be read, what is wrong with it instead."""
    if path.suffix.lower() == ".csv":
        csv.field_size_limit(1 << 27)  # packed masks are long
        text = read_text(path)
        head = text.split("\n", 1)[0]
        reader = csv.DictReader(io.StringIO(text), delimiter=max(",;\t", key=head.count))  # as spreadsheets save it
        for row in reader:
            more = "has more values than the first line; put quotes around a text with commas"
            yield reader.line_num, more if None in row else row
        return
    for number, line in enumerate(_lines(path), start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield number, f"not valid JSON ({error})"
            else:
                yield number, row if isinstance(row, dict) else "not a JSON object"


def read_text(path: Path) -> str:
    """Text of a file in UTF-8 (with or without a mark). InputError where it is not."""
    return "".join(_lines(path))


def _lines(path: Path) -> Iterator[str]:
    """Its lines, one in memory at a time. A line separator of Unicode's ends none: one may stand in a caption."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from file
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not readable as UTF-8 text ({one_line(error)}); save it as UTF-8") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
