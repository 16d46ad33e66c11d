"""README.md of a dataset: the card that the hub shows, with counts, licences and attribution."""

import json
from collections import Counter
from collections.abc import Collection
from typing import Any

from texdiff.errors import one_line

TAG = "texdiff"  # marks a folder as a dataset written here, which may be replaced

_LOADED_AS = {"imagefolder": '"imagefolder", data_dir=', "parquet": ""}
_AUDITS = {"imagefolder": "`audit.jsonl`", "parquet": "`audit.jsonl`, and the same as `audit.parquet`,"}
_AUTHORS, _MODELS = 1000, 100  # in the table of them, and of each; the rows name all


_SURFACE = [
    "",
    "And `surface`: how much of the mesh's surface d each texel lands on, overlaps and instances added up, relative to",
    "the texture's largest, as 16-bit grey: round(65535 sqrt(d / d_max)), at least 1 where the mask is white, 0",
    "elsewhere. Its square is proportional to d. Training with `mask.weight: surface` lets each texel count by it.",
]
_LAYOUT = [
    "",
    "And `layout`: where on the mesh each texel lies, as 16-bit RGB: value / 65535 is x, y, z in the box of the whole",
    "object, whose middle is 0.5 and whose longest side reaches from 0.05 to 0.95; axes as in the file, of which glTF",
    "and COLLADA say that y is up. 0 where the mask is 0. Drawn at texel centres, the longer side at most 4096",
    "texels: resize it without interpolation. Of several meshes the one with the most surface is drawn.",
]


def dataset_card(name: str, rows: list[dict[str, Any]], reasons: Counter[str], format: str) -> str:
    """Markdown with YAML front matter. `rows`: of metadata.jsonl, plus "split"; `reasons`: of rejections."""
    licenses = Counter(row["license"] for row in rows)
    splits = Counter(row["split"] for row in rows)
    coverage = sum(row["coverage"] for row in rows) / len(rows)
    license = next(iter(licenses)).lower() if len(licenses) == 1 else "other"
    lines = [
        "---",
        f"license: {json.dumps(license)}",
        "task_categories:",
        "- text-to-image",
        "tags:",
        f"- {TAG}",
        "- uv-texture",
        f"size_categories:\n- {_size_category(len(rows))}",
        "---",
        "",
        f"# {_plain(name)}",
        "",
        f"{len(rows)} UV texture atlases with masks and captions: "
        + ", ".join(f"{splits[split]} {split}" for split in ("train", "validation") if splits[split])
        + f". On average {coverage:.1%} of the texels are mapped onto the mesh.",
        "",
        "Columns: `image` (the texture), `mask` (8-bit grey, 255 where the UV map uses the texel), `text`.",
        *(_SURFACE if "surface_file_name" in rows[0] else []),
        *(_LAYOUT if "layout_file_name" in rows[0] else []),
        "",
        "```python",
        f'datasets.load_dataset({_LOADED_AS[format]}"path/to/this/folder")',
        "```",
        "",
        f"{_AUDITS[format]} lists every texture that was looked at, with all measures; `audit.html` shows them.",
        "",
        "## Licences",
        "",
        "Each row carries the licence and the author of the model it comes from. The licence of a row binds the row.",
        "",
        "| licence | textures |",
        "|---|---|",
        *(f"| {_plain(license)} | {count} |" for license, count in sorted(licenses.items())),
        "",
        "## Attribution",
        "",
        "| author | licence | models |",
        "|---|---|---|",
        *_attribution(rows),
    ]
    if reasons:
        lines += ["", "## Set aside", "", "| reason | textures or meshes |", "|---|---|"]
        lines += [f"| {_plain(reason)} | {count} |" for reason, count in sorted(reasons.items())]
    return "\n".join(lines) + "\n"


def _attribution(rows: list[dict[str, Any]]) -> list[str]:
    models: dict[tuple[str, str], dict[str, None]] = {}
    for row in rows:
        models.setdefault((row["author"], row["license"]), {}).update(dict.fromkeys(row["meshes"]))
    most = sorted(sorted(models, key=lambda key: -len(models[key]))[:_AUTHORS])
    lines = [
        f"| {_plain(author)} | {_plain(license)} | {_names(models[author, license])} |" for author, license in most
    ]
    if len(models) > _AUTHORS:
        lines.append(f"| {len(models) - _AUTHORS} others, with fewer models | | see the rows |")
    return lines


def _names(models: Collection[str]) -> str:
    some = [_plain(model) for model in sorted(models)[:_MODELS]]
    return ", ".join([*some, f"and {len(models) - _MODELS} more"] if len(models) > _MODELS else some)


def _plain(text: str) -> str:
    """Text that cannot break the table or the page it stands in."""
    return one_line(text).replace("|", "\\|").replace("<", "&lt;")


def _size_category(count: int) -> str:
    for limit, name in ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M")):
        if count < limit:
            return name
    return "1M<n<10M"
