"""Last stage of `prepare`: entries in the work folder -> the dataset's files, in an order that nothing can change."""

import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import quote

from texdiff.data.mesh_index import MESHES
from texdiff.data.prepare.asset import split_of
from texdiff.data.prepare.build_stage import TextureEntry
from texdiff.data.prepare.sources.captions import CaptionFile
from texdiff.errors import readable
from texdiff.files import write_atomic


def split(entries: list[TextureEntry], validation_fraction: float) -> dict[str, str]:
    """Content -> "train" or "validation". By content, in the order of the hashes: no texture is on both sides.

    At least one of two or more goes to validation unless the fraction is 0, and at least one stays for training. What a
    source itself holds out, for validation or for a test, is held out first, and all of it, unless that is everything.
    """
    kept_out = [any(split_of(asset) != "train" for asset in entry.assets) for entry in entries]
    first = {entry.content for entry, out in zip(entries, kept_out, strict=True) if out and not all(kept_out)}
    contents = sorted((entry.content for entry in entries), key=lambda content: (content not in first, content))
    held_out = round(validation_fraction * len(contents))
    if validation_fraction > 0 and len(contents) >= 2:
        held_out = min(max(held_out, 1), len(contents) - 1)
    held_out = max(held_out, len(first))
    return {content: "validation" if i < held_out else "train" for i, content in enumerate(contents)}


def write_splits(
    folder: Path, entries: list[TextureEntry], splits: dict[str, str], template: str
) -> list[dict[str, Any]]:
    """Write train/ and validation/ (images and metadata.jsonl); returns the rows, and which split each is in.

    `template` holds "{caption}". Text is a list in every row as soon as one entry has several captions. Surface files
    and layout maps are written where all entries have one: `datasets` refuses splits of different columns, and training
    wants all or none.
    """
    several = any(len(entry.captions) > 1 for entry in entries)
    kinds = ["surface"] if all(entry.has_surface for entry in entries) else []
    kinds += ["layout"] if all(entry.has_layout for entry in entries) else []
    repeated = any(asset.repeats > 1 or asset.regularisation for entry in entries for asset in entry.assets)
    titles = any(asset.title for entry in entries for asset in entry.assets)
    rows = []
    for entry in sorted(entries, key=lambda entry: entry.asset_id):
        side = folder / splits[entry.content]
        texts = [template.replace("{caption}", text) for text in entry.captions]
        properties = entry.stored()["properties"]
        row = {
            "file_name": f"textures/{entry.asset_id}.png",
            "mask_file_name": f"masks/{entry.asset_id}.png",
            **{f"{kind}_file_name": f"{kind}s/{entry.asset_id}.png" for kind in kinds},
            "text": texts if several else texts[0],
            "asset_id": entry.asset_id,
            "source": entry.assets[0].label,
            "meshes": [asset.label for asset in entry.assets],
            "license": _all_of([asset.license for asset in entry.assets], " AND "),
            "author": _all_of([asset.author for asset in entry.assets], "; "),
            **({"title": _all_of([asset.title for asset in entry.assets], "; ")} if titles else {}),
            "coverage": properties["measures"]["coverage"],
            "width": properties["width"],
            "height": properties["height"],
            **({"repeats": max(asset.repeats for asset in entry.assets)} if repeated else {}),
            **({"regularisation": all(asset.regularisation for asset in entry.assets)} if repeated else {}),
        }
        for kind in ("texture", "mask", *kinds):
            name = f"{kind}s/{entry.asset_id}.png"
            (side / name).parent.mkdir(parents=True, exist_ok=True)
            _link(entry.folder / f"{kind}.png", side / name)
        with (side / "metadata.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        rows.append(row | {"split": splits[entry.content]})
    return rows


def write_mesh_index(folder: Path, entries: list[TextureEntry], output: Path) -> None:
    """Write meshes.json of a dataset in `folder` that will be at `output`: asset_id -> mesh and texture content.

    Paths are relative to the dataset, so that both can be moved together. One that is no UTF-8 is there again as
    "mesh_quoted", with %E9 and the like.
    """
    rows = {}
    for entry in sorted(entries, key=lambda entry: entry.asset_id):
        if entry.assets[0].mask is None:  # else it comes from an image
            mesh = Path(os.path.relpath(entry.assets[0].path, output))
            rows[entry.asset_id] = {"mesh": readable(mesh.as_posix()), "content": entry.content}
            if rows[entry.asset_id]["mesh"] != mesh.as_posix():
                rows[entry.asset_id]["mesh_quoted"] = quote(os.fsencode(mesh))
    write_atomic(folder / MESHES, json.dumps(rows, indent=1, ensure_ascii=False).encode(), durable=False)


def summarise(
    rows: list[dict[str, Any]],
    kept: list[TextureEntry],
    assets: int,
    looked_at: int,
    reasons: Counter[str],
    caption_files: list[CaptionFile],
) -> str:
    """What was made, in one line."""
    splits = Counter(row["split"] for row in rows)
    text = f"{len(rows)} textures kept ({splits['train']} train, {splits['validation']} validation)"
    text += f" of {looked_at} textures and materials in {count_of(assets, 'asset')}"
    if reasons:
        text += "; set aside: " + ", ".join(f"{count} x {reason}" for reason, count in reasons.most_common())
    for note, count in Counter(note for entry in kept for note in entry.notes).most_common():
        text += f"; {count} x {note}"
    for file in caption_files:
        if file.unused:
            lines = count_of(len(file.unused), "line")
            text += f"; no mesh here for {lines} of {readable(file.path.name)} ({readable(min(file.unused))})"
    surfaces, layouts = [entry.has_surface for entry in kept], [entry.has_layout for entry in kept]
    for what, there in (("surface files", surfaces), ("layout maps", layouts)):
        if any(there) and not all(there):
            text += f"; no {what}, since some textures come without a mesh"
    return text


def count_of(number: int, what: str) -> str:
    """ "1 asset", "2 assets"."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _all_of(values: list[str | None], separator: str) -> str:
    """Never null: a split where a column is all null has another type than the other split, and neither loads."""
    return separator.join(dict.fromkeys(value for value in values if value)) or "unknown"


def _link(source: Path, target: Path) -> None:
    """A second name for the file: should the program be stopped, the work folder is still complete, and nothing is
    copied."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
