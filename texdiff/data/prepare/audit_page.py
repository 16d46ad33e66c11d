"""audit.html: every texture that was looked at, to look at. One file, no network, sortable by each column."""

from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

_FIRST = ("kept", "asset_id", "source", "texture", "reason", "split")  # in this order
_WORDS = ("asset_id", "source", "texture", "reason")  # long ones, which need room
_HIDDEN = ("meshes", "content", "texture_sha256")  # in audit.jsonl; here they would only widen the table


def write_audit_page(
    path: Path, title: str, summary: str, columns: list[str], rows: Iterable[tuple[dict[str, Any], list[str]]]
) -> None:
    """Write the page. `rows`: audit rows with the data URIs of their thumbnails (none: the cells stay empty).

    Everything in a row may come from a file's name or its content, so everything is escaped.
    """
    environment = jinja2.Environment(autoescape=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(files(__package__).joinpath("audit_page.html.j2").read_text("utf-8"))
    shown = [*_FIRST, *(column for column in columns if column not in (*_FIRST, *_HIDDEN))]
    page = template.stream(title=title, summary=summary, columns=shown, words=_WORDS, rows=rows, cell=_cell)
    page.enable_buffering(1000)
    with path.open("w", encoding="utf-8") as file:  # row by row: with thumbnails, thousands are many megabytes
        file.writelines(page)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
