"""The same texture at another size, or compressed anew, is counted once; textures that only resemble it stay."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from texdiff.data.prepare import prepare_dataset
from texdiff.data.prepare.asset import Asset
from texdiff.data.prepare.build_stage import TextureEntry
from texdiff.data.prepare.near_duplicates.look import look_of, read_look, same_texture
from texdiff.data.prepare.near_duplicates.merge import merge_near_duplicates


def look(texture: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    return read_look(look_of(texture, np.ones(texture.shape[:2], bool) if mask is None else mask))


def compressed(texture: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(texture).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def resized(texture: np.ndarray, side: int) -> np.ndarray:
    return cv2.resize(texture, (side, side), interpolation=cv2.INTER_AREA if side < len(texture) else cv2.INTER_CUBIC)


def smooth(noise: np.ndarray) -> np.ndarray:
    """256 x 256, without the garish colours that JPEG is bad at."""
    return resized((64 + noise // 2).astype(np.uint8), 256)


@pytest.mark.parametrize("seed", range(3))
def test_what_is_the_same_texture(draw: Callable, seed: int) -> None:
    texture = smooth(draw(seed, side=16))
    own = look(texture)
    for side, quality in ((256, 60), (128, 80), (512, 90)):
        assert same_texture(own, look(compressed(resized(texture, side), quality))), (side, quality)
    assert not same_texture(own, look(smooth(draw(seed + 10, side=16))))
    changed = texture.copy()
    changed[64:80, 64:80] = 255 - changed[64:80, 64:80]  # a number on a shirt
    assert not same_texture(own, look(changed))
    tinted = np.clip(texture.astype(int) + np.array([24, 0, -24]), 0, 255).astype(np.uint8)
    assert not same_texture(own, look(tinted))


def test_what_lies_on_no_mesh_does_not_make_textures_the_same(draw: Callable) -> None:
    """A small island in the same void."""
    mask = np.zeros((256, 256), bool)
    mask[:48, :48] = True
    one, other = (np.full((256, 256, 3), 200, np.uint8) for _ in range(2))
    one[mask], other[mask] = draw(1, side=256)[mask], draw(2, side=256)[mask]
    assert not same_texture(look(one, mask), look(other, mask))


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def prepared(folder: Path, output: Path, **options: object) -> tuple[list[dict], list[dict], str]:
    summary = prepare_dataset([str(folder)], output, workers=1, **options)
    rows = [row for path in sorted(output.glob("*/metadata.jsonl")) for row in rows_of(path)]
    return rows, rows_of(output / "audit.jsonl"), summary


def test_the_largest_stays_with_what_is_known_of_all(tmp_path: Path, write_mesh: Callable, draw: Callable) -> None:
    texture = draw(1, side=256)
    for name, pixels in (
        ("small.glb", resized(texture, 128)),
        ("large.glb", texture),
        ("other.glb", draw(2, side=256)),
    ):
        write_mesh(tmp_path / "in" / name, pixels)
    lines = [
        {"mesh": "small.glb", "text": "a small cup", "license": "CC-BY-4.0", "author": "Ann"},
        {"mesh": "large.glb", "text": "a large cup", "license": "CC0-1.0", "author": "Bob"},
        {"mesh": "other.glb", "text": "a bowl", "license": "CC0-1.0", "author": "Bob"},
    ]
    (tmp_path / "in" / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows, audit, summary = prepared(tmp_path / "in", tmp_path / "out", resolution=64, validation_fraction=0.5)
    assert "2 textures kept (1 train, 1 validation)" in summary
    assert "1 x shows the same texture as another" in summary
    row = next(row for row in rows if row["source"] == "large.glb")
    assert row["meshes"] == ["large.glb", "small.glb"]
    assert row["text"] == ["a large cup", "a small cup"]
    assert (row["license"], row["author"]) == ("CC0-1.0 AND CC-BY-4.0", "Bob; Ann")
    [aside] = [one for one in audit if not one["kept"]]
    assert (aside["source"], aside["same_as"]) == ("small.glb", row["asset_id"])
    assert aside["reason"] == f"shows the same texture as another ({row['asset_id']})"
    assert aside["split"] is None


def test_what_many_resemble_is_read_twice_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Textures of nearly one colour, each with one other cell: all are compared with all."""
    entries = []
    for number in range(40):
        texture = np.full((32, 32, 3), 128, np.uint8)
        texture[number // 8, number % 8] = 255
        if number >= 38:  # copies of the one before them
            texture[number // 8, number % 8], texture[37 // 8, 37 % 8] = 128, 292 - number
        stored = {"properties": {"source_width": 32, "source_height": 32}}
        (tmp_path / str(number)).mkdir()
        stored["look"] = look_of(texture, np.ones((32, 32), bool))
        (tmp_path / str(number) / "entry.json").write_text(json.dumps(stored))
        asset = Asset(path=tmp_path / f"{number}.glb", label=f"{number}.glb", key=str(number), captions=(), named=True)
        where = {"folder": tmp_path / str(number), "assets": (asset,), "name": "", "reason": None}
        entries.append(TextureEntry(content=f"{number:02d}", **where))
    read = []
    stored_of = TextureEntry.stored
    monkeypatch.setattr(TextureEntry, "stored", lambda self: read.append(self.content) or stored_of(self))
    merged = merge_near_duplicates(entries)
    assert [entry.content for entry in merged if entry.same_as] == ["38", "39"]
    assert [asset.label for asset in merged[37].assets] == ["37.glb", "38.glb", "39.glb"]
    assert len(read) == 2 * len(entries)
