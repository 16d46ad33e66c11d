"""Last station of `prepare`: entries in the work folder -> the dataset's files, in an order that nothing can change."""

import json
import os
import re
import shutil
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from texdiff.data.mesh_index import MESHES
from texdiff.data.prepare.asset import Asset
from texdiff.files import write_atomic


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One texture content: the assets that use it (in their order), and where its entry.json lies."""

    content: str  # SHA-256 of its pixels
    name: str  # of the texture, in the first asset that uses it
    assets: tuple[Asset, ...]
    folder: Path  # texture.png, mask.png (where it is kept), surface.png (where it is known), entry.json
    reason: str | None  # why it is set aside; None where it is kept
    facts: dict[str, Any]  # what the first asset's reader says about it
    generated: str | None = None  # a captioner's caption

    @property
    def asset_id(self) -> str:
        """Mesh, texture and content in a name that any file system takes."""
        names = [Path(self.assets[0].label).stem]
        if self.assets[0].mask is None:
            names.append(Path(self.name).stem)
        return "-".join([*map(slug, names), self.content[:8]])

    @property
    def has_surface(self) -> bool:
        """Whether it is known how much of the meshes' surface each texel lands on."""
        return (self.folder / "surface.png").is_file()

    @property
    def captions(self) -> list[str]:
        """Distinct captions over all assets; those made from names only where there are no others."""
        given = [text for asset in self.assets if not asset.named for text in asset.captions]
        if not given and self.generated:
            return [self.generated]
        return list(dict.fromkeys(given or [text for asset in self.assets for text in asset.captions]))


@dataclass(frozen=True, kw_only=True)
class SetAside:
    """A texture, or a whole asset (`name` None), that could not be read into an entry, and why."""

    asset: Asset
    name: str | None
    reason: str


def slug(text: str) -> str:
    """ASCII letters and digits in lower case with single hyphens between, at most 40 characters, never empty."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:40].strip("-") or "texture"


def split(entries: list[Entry], validation_fraction: float) -> dict[str, str]:
    """Content -> "train" or "validation". By content, in the order of the hashes: no texture is on both sides.

    At least one of two or more goes to validation unless the fraction is 0, and at least one stays for training.
    """
    contents = sorted(entry.content for entry in entries)
    held_out = round(validation_fraction * len(contents))
    if validation_fraction > 0 and len(contents) >= 2:
        held_out = min(max(held_out, 1), len(contents) - 1)
    return {content: "validation" if i < held_out else "train" for i, content in enumerate(contents)}


def write_dataset(folder: Path, entries: list[Entry], splits: dict[str, str], template: str) -> list[dict[str, Any]]:
    """Write train/ and validation/ (pictures and metadata.jsonl); returns the rows without their measures.

    `template` holds "{caption}". Text is a list in every row as soon as one entry has several captions. Surfaces are
    written where all entries have one: `datasets` refuses splits of different columns, and training wants all or none.
    """
    several = any(len(entry.captions) > 1 for entry in entries)
    surfaces = all(entry.has_surface for entry in entries)
    rows = []
    for entry in sorted(entries, key=lambda entry: entry.asset_id):
        side = folder / splits[entry.content]
        texts = [template.replace("{caption}", text) for text in entry.captions]
        facts = entry_facts(entry)
        row = {
            "file_name": f"textures/{entry.asset_id}.png",
            "mask_file_name": f"masks/{entry.asset_id}.png",
            **({"surface_file_name": f"surfaces/{entry.asset_id}.png"} if surfaces else {}),
            "text": texts if several else texts[0],
            "asset_id": entry.asset_id,
            "source": entry.assets[0].label,
            "meshes": [asset.label for asset in entry.assets],
            "license": _all_of([asset.license for asset in entry.assets], " AND "),
            "author": _all_of([asset.author for asset in entry.assets], "; "),
            "coverage": facts["measures"]["coverage"],
            "width": facts["width"],
            "height": facts["height"],
        }
        for kind in ("texture", "mask", *(["surface"] if surfaces else [])):
            name = f"{kind}s/{entry.asset_id}.png"
            (side / name).parent.mkdir(parents=True, exist_ok=True)
            _link(entry.folder / f"{kind}.png", side / name)
        with (side / "metadata.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        rows.append(row | {"split": splits[entry.content]})
    return rows


def audit_rows(entries: list[Entry], aside: list[SetAside], splits: dict[str, str]) -> Iterator[dict[str, Any]]:
    """One row per texture looked at, in the order of the assets, with all facts and measures."""
    looked_at: list[Entry | SetAside] = [*entries, *aside]
    for one in sorted(looked_at, key=_audit_order):
        row: dict[str, Any] = {"kept": False, "split": None, "reason": one.reason}
        if isinstance(one, SetAside):
            row |= {"asset_id": None, "source": one.asset.label, "meshes": [one.asset.label], "texture": one.name}
            yield row
            continue
        facts = entry_facts(one)
        row |= {
            "kept": one.reason is None,
            "split": splits.get(one.content),
            "asset_id": one.asset_id,
            "source": one.assets[0].label,
            "meshes": [asset.label for asset in one.assets],
            "texture": one.name,
            "content": one.content,
        }
        yield (
            row
            | {key: value for key, value in facts.items() if key not in ("measures", "reason")}
            | (facts.get("measures", {}))
        )


def entry_facts(entry: Entry) -> dict[str, Any]:
    """The facts in an entry's entry.json: reason, sizes, measures."""
    return json.loads((entry.folder / "entry.json").read_text())["facts"]


def entry_thumbnails(entry: Entry) -> list[str]:
    """Data URIs of texture, mask and latent mask; none where building the entry failed."""
    return json.loads((entry.folder / "entry.json").read_text())["thumbnails"]


def _audit_order(one: Entry | SetAside) -> tuple[str, str, str]:
    if isinstance(one, SetAside):
        return one.asset.label, one.name or "", one.reason
    return one.assets[0].label, one.name, one.content


def _all_of(values: list[str | None], separator: str) -> str:
    """Never null: a split where a column is all null has another type than the other split, and neither loads."""
    return separator.join(dict.fromkeys(value for value in values if value)) or "unknown"


def _link(source: Path, target: Path) -> None:
    """A second name for the file: the work folder stays whole, should the program be stopped, and nothing is copied."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def write_meshes(folder: Path, entries: list[Entry], output: Path) -> None:
    """Write meshes.json of a dataset in `folder` that will stand at `output`: asset_id -> mesh and texture content.

    Paths are relative to the dataset, so that both can be moved together.
    """
    rows = {}
    for entry in sorted(entries, key=lambda entry: entry.asset_id):
        if entry.assets[0].mask is None:  # else it comes from a picture
            mesh = Path(os.path.relpath(entry.assets[0].path, output))
            rows[entry.asset_id] = {"mesh": mesh.as_posix(), "content": entry.content}
    write_atomic(folder / MESHES, json.dumps(rows, indent=1, ensure_ascii=False).encode(), durable=False)
