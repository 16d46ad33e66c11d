"""audit.html: the textures that were looked at, to look at. One file, no network, sortable by each column."""

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import jinja2

from texdiff.data.prepare.audit.sample import Sample

_FIRST = ("kept", "asset_id", "source", "texture", "reason", "split")  # in this order
_WORDS = ("asset_id", "source", "texture", "reason", "shown_for")  # long ones, which need room
_HIDDEN = ("meshes", "content", "texture_sha256")  # in audit.jsonl; here they would only widen the table
_SAMPLED = ("kept", "reason", "same_as")  # the same in every row of a sample

Item = TypeVar("Item")


def write_page(
    path: Path,
    title: str,
    summary: str,
    columns: list[str],
    sample: Sample[Item],
    thumbnails: Callable[[Item], list[str]],
) -> None:
    """Write the page. `columns`: of all audit rows. `thumbnails`: data URIs (none: the cells stay empty).

    Everything in a row may come from a file's name or its content, so everything is escaped.
    """
    environment = jinja2.Environment(autoescape=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(files(__package__).joinpath("page.html.j2").read_text("utf-8"))
    shown = [*_FIRST, *(column for column in columns if column not in (*_FIRST, *_HIDDEN))]
    if not sample.is_all:
        shown = ["shown_for", *(column for column in shown if column not in _SAMPLED)]
    page = template.stream(
        title=title,
        summary=summary,
        columns=shown,
        words=_WORDS,
        sample=sample,
        rows=sample.rows(),
        thumbnails=thumbnails,
        cell=_cell,
    )
    page.enable_buffering(1000)
    with path.open("w", encoding="utf-8") as file:  # row by row: with thumbnails, a thousand are megabytes
        file.writelines(page)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
