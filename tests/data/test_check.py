"""`texdiff check` says what would make training wrong, by file, and is silent on a sound dataset."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from texdiff.cli import main
from texdiff.data.check import check_dataset
from texdiff.errors import InputError

Draw = Callable[..., np.ndarray]


def write(root: Path, rows: dict[str, tuple[np.ndarray | bytes, np.ndarray | bytes | None, str | None]]) -> Path:
    """Rows by name "split/stem": picture, mask (None: no file), caption."""
    for name, (picture, mask, text) in rows.items():
        split, stem = name.split("/")
        row = {"file_name": f"{stem}.png", "mask_file_name": f"{stem}-m.png"} | ({"text": text} if text else {})
        (root / split).mkdir(parents=True, exist_ok=True)
        for file, pixels in ((row["file_name"], picture), (row["mask_file_name"], mask)):
            if isinstance(pixels, bytes):
                (root / split / file).write_bytes(pixels)
            elif pixels is not None:
                Image.fromarray(pixels).save(root / split / file)
        with (root / split / "metadata.jsonl").open("a") as metadata:
            metadata.write(json.dumps(row) + "\n")
    return root


def test_a_sound_dataset_has_no_finding(draw: Draw, islands_mask: Draw, tmp_path: Path) -> None:
    mask = islands_mask().astype(np.uint8) * 255
    root = write(tmp_path / "d", {"train/a": (draw(1), mask, "a"), "validation/b": (draw(2), mask, "b")})
    assert list(check_dataset(str(root))) == [f"0 errors, 0 warnings in 2 textures of {root}; mean coverage 37.5%"]


def test_a_dataset_that_holds_out_all_it_has_cannot_be_trained_on(
    draw: Draw, islands_mask: Draw, tmp_path: Path
) -> None:
    root = write(tmp_path / "d", {"validation/a": (draw(1), islands_mask().astype(np.uint8) * 255, "a")})
    first, summary = check_dataset(str(root))
    assert first == f"{root}: error: holds out all of its textures: none is left to train on"
    assert summary.startswith("1 errors, 0 warnings")


def test_each_fault_is_said_of_its_file(draw: Draw, islands_mask: Draw, tmp_path: Path) -> None:
    mask = islands_mask().astype(np.uint8) * 255
    thin = np.zeros_like(mask)
    thin[:, 3::8] = 255
    plain = np.where(mask[..., None] > 0, draw(7), np.uint8(40))
    rows = {
        "train/good": (draw(1), mask, "a good one"),
        "train/empty": (draw(2), np.zeros_like(mask), "b"),
        "train/dark": (draw(12), mask // 255, "m"),
        "train/thin": (draw(3), thin, "c"),
        "train/size": (draw(4), mask[::2, ::2], "d"),
        "train/shape": (draw(5), mask[:32, :48], "e"),
        "train/grey": (draw(6), np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1)), "f"),
        "train/inverted": (plain, 255 - mask, "g"),
        "train/nomask": (draw(8), None, "h"),
        "train/broken": (b"\x89PNG\r\n", mask, "i"),
        "train/uncaptioned": (draw(9), mask, None),
        "train/full": (draw(10), np.full_like(mask, 255), "j"),
        "train/again": (draw(1), mask, "k"),
        "validation/leak": (draw(1), mask, "l"),
    }
    root = write(tmp_path / "d", rows)
    Image.fromarray(draw(11)).save(root / "train" / "stranger.png")
    with (root / "train" / "metadata.jsonl").open("a") as metadata:
        metadata.write("{\n")
    *lines, summary = check_dataset(str(root), workers=2)
    expected = {
        "train/empty.png: error: the mask is empty",
        "train/dark.png: error: the mask is empty; its brightest value is 1, and what counts must be 128 or more",
        "train/thin.png: error: the mask is empty at 1/8",
        "train/size.png: error: the image is 64x64 but its mask 32x32",
        "train/shape.png: error: the image is 64x64 but its mask 48x32",
        "train/grey.png: warning: 88% of the mask are grey, so its texels weigh their value / 255",
        "train/inverted.png: error: the mask looks inverted",
        "train/nomask.png: error: ",
        "train/broken.png: error: ",
        "train/uncaptioned.png: error: has no caption",
        "validation/leak.png: error: the same image as train/good.png, in another split",
        "train/metadata.jsonl, line 14: error: not valid JSON",
        "train/full.png: warning: the mask covers everything",
        "train/again.png: warning: the same image as train/good.png",
        "train/stranger.png: warning: no row of the metadata names it",
    }
    unsaid = {start for start in expected if not any(line.startswith(start) for line in lines)}
    assert unsaid == set()
    assert len(lines) == len(expected)
    assert summary.startswith("11 errors, 4 warnings in 15 textures")
    assert "the mask does not exist" in next(line for line in lines if "nomask" in line)


def test_masks_inverted_throughout_are_said_even_where_no_single_one_is_sure(
    draw: Draw, islands_mask: Draw, tmp_path: Path
) -> None:
    mask = islands_mask()
    rows = {}
    for number in range(8):
        picture = draw(number)
        picture[~mask] = picture[~mask] // 40 * 40  # less varied, by no means plain
        picture[~mask, 1:] = picture[~mask, :1]
        picture[40:, :20] = 0
        rows[f"train/{number}"] = (picture, (~mask).astype(np.uint8) * 255, str(number))
    root = write(tmp_path / "d", rows)
    lines = list(check_dataset(str(root)))
    assert lines[:-1] == [
        f"{root}: error: the masks look inverted: 8 of 8 textures vary more outside the mask than inside"
    ]


def test_exit_status(
    draw: Draw, islands_mask: Draw, write_mesh: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    mask = islands_mask().astype(np.uint8) * 255
    assert main(["check", str(write(tmp_path / "good", {"train/a": (draw(1), mask, "a")}))]) == 0
    assert main(["check", str(write(tmp_path / "bad", {"train/a": (draw(1), mask * 0, "a")}))]) == 1
    assert "train/a.png: error: the mask is empty\n1 errors" in capsys.readouterr().out
    write_mesh(tmp_path / "meshes" / "a.glb", draw(1))
    assert main(["check", str(tmp_path / "meshes")]) == 2
    assert main(["check", str(tmp_path / "gone")]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if "checking" not in line]
    assert len(errors) == 2
    assert all(line.startswith("texdiff: error: ") for line in errors)


def test_an_empty_folder_is_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no images and no dataset"):
        list(check_dataset(str(tmp_path)))


def test_the_share_of_flat_voids_is_in_the_summary(draw: Draw, islands_mask: Draw, tmp_path: Path) -> None:
    mask = islands_mask().astype(np.uint8) * 255
    black = np.where(mask[..., None] > 0, draw(1), np.uint8(0))
    root = write(tmp_path / "d", {"train/a": (black, mask, "a"), "train/b": (draw(2), mask, "b")})
    (summary,) = check_dataset(str(root))
    assert summary.startswith("0 errors, 0 warnings")
    assert "; 50% have a void of one colour, which data.background keep" in summary


def test_several_datasets_are_checked_as_one(draw: Draw, islands_mask: Draw, tmp_path: Path) -> None:
    mask = islands_mask().astype(np.uint8) * 255
    one = write(tmp_path / "one", {"train/a": (draw(1), mask, "a cup")})
    other = write(tmp_path / "other", {"train/b": (draw(2), mask, "a bowl"), "validation/a": (draw(1), mask, "a cup")})
    line, summary = check_dataset([str(one), str(other)])
    assert line.startswith(f"{other}/validation/a.png: error: the same image as {one}/train/a.png, in another split")
    assert summary.startswith(f"1 errors, 0 warnings in 3 textures of {one}, {other}; mean coverage 37.5%")
