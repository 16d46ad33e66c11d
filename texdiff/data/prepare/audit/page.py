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

# What a column says, where its name does not; shares are of 1. "lost" and "void" are there for each mask.downsample.
_MEANINGS = {
    "split": "train, or held out for validation",
    "surface": "whether it is known how much of the mesh each texel covers",
    "without_position": "share of the mask's texels of which the layout map knows no place on the mesh",
    "coverage": "share of the texels that the UV map uses",
    "contrast": "how much the used texels differ in colour: RMS distance from their mean, of 255",
    "colours": "different colours that the used texels have",
    "void_contrast": "how much the unused texels differ in colour, of 255",
    "void_colours": "different colours that the unused texels have",
    "void_constant": "whether all unused texels have one colour",
    "void_colour": "that colour",
    "islands_lost": "islands of which nothing is left in the latent mask",
    "latent_lost": "share of the used texels that do not count in training, with this mask.downsample",
    "latent_void": "share of what counts in training that is void, with this mask.downsample",
    "not_finite": "triangles whose UV coordinates are not numbers",
    "degenerate": "triangles without area in the texture",
    "flipped": "share of the UV area that is mirrored",
    "out_of_range": "share of the triangles that leave 0 to 1, so that the texture repeats, is clamped or mirrored",
    "overlap": "share of the used texels that several triangles use",
    "overlap_max": "triangles that use one texel, at most",
    "repeats": "triangles that use a texel, on average",
    "density": "texels per unit of length on the mesh, median",
    "density_spread": "how uneven that is: its 90th percentile over its 10th",
}

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
        meanings={column: _meaning(column) for column in shown},
        sample=sample,
        rows=sample.rows(),
        thumbnails=thumbnails,
        cell=_cell,
    )
    page.enable_buffering(1000)
    with path.open("w", encoding="utf-8") as file:  # row by row: with thumbnails, a thousand are megabytes
        file.writelines(page)


def _meaning(column: str) -> str:
    """Of a measure for each mask.downsample the one of all, which begins alike."""
    return _MEANINGS.get(column) or next(
        (text for name, text in _MEANINGS.items() if column.startswith(f"{name}_")), ""
    )


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
