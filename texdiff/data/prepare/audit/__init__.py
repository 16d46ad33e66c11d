"""The audit: every texture that was looked at, kept or set aside and why, with all measures. audit.jsonl has all of
them, audit.html shows them, or a sample where they are many."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from texdiff.data.prepare.audit.page import write_page
from texdiff.data.prepare.audit.sample import Sample
from texdiff.data.prepare.build_stage import TextureEntry
from texdiff.data.prepare.read_stage import Unread


def write_audit(
    folder: Path, name: str, summary: str, entries: list[TextureEntry], unread: list[Unread], splits: dict[str, str]
) -> None:
    """Write audit.jsonl, and audit.html with the thumbnails. `splits`: of the content of each entry that is kept."""
    columns: dict[str, None] = {}
    sample = Sample[TextureEntry | Unread]()
    with (folder / "audit.jsonl").open("w", encoding="utf-8") as file:
        for row, item in _rows(entries, unread, splits):
            columns |= dict.fromkeys(row)
            sample.add(row, item)
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    write_page(folder / "audit.html", f"{name}: audit", summary, list(columns), sample, _thumbnails)


def _thumbnails(item: TextureEntry | Unread) -> list[str]:
    """Data URIs of texture, mask and latent mask; none where there is no texture."""
    return [] if isinstance(item, Unread) else item.stored()["thumbnails"]


def _rows(
    entries: list[TextureEntry], unread: list[Unread], splits: dict[str, str]
) -> Iterator[tuple[dict[str, Any], TextureEntry | Unread]]:
    """One row per texture looked at, in the order of the assets, with all properties and measures."""
    looked_at: list[TextureEntry | Unread] = [*entries, *unread]
    for item in sorted(looked_at, key=_order):
        if isinstance(item, Unread):
            asset = item.asset
            row: dict[str, Any] = {"kept": False, "split": None, "reason": item.reason, "asset_id": None}
            yield row | {"source": asset.label, "meshes": [asset.label], "texture": item.name}, item
            continue
        properties = item.stored()["properties"]
        row = {
            "kept": item.reason is None,
            "split": splits.get(item.content),
            "reason": item.reason,
            "asset_id": item.asset_id,
            "source": item.assets[0].label,
            "meshes": [asset.label for asset in item.assets],
            "texture": item.name,
            "notes": "; ".join(item.notes) or None,
            "content": item.content,
            **{key: value for key, value in properties.items() if key not in ("measures", "reason")},
            **properties.get("measures", {}),
            **({"same_as": item.same_as} if item.same_as else {}),
        }
        yield row, item


def _order(item: TextureEntry | Unread) -> tuple[str, str, str]:
    if isinstance(item, Unread):
        return item.asset.label, item.name or "", item.reason
    return item.assets[0].label, item.name, item.content
