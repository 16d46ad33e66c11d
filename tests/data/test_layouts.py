"""What `texdiff check` finds sound, training reads, and alike: the same images, masks and captions."""

import base64
import json
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from texdiff.data.check import check_dataset
from texdiff.data.prepare import prepare_dataset
from texdiff.data.records import read_records
from texdiff.errors import InputError

Draw = Callable[..., np.ndarray]
Layout = Callable[[Path, np.ndarray, np.ndarray, str], Path]


def save(pixels: np.ndarray, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def table(root: Path, image: np.ndarray, mask: np.ndarray, row: dict[str, object], encoding: str = "utf-8") -> Path:
    save(image, root / "train/images/cup.png")
    save(mask, root / "train/masks/cup.png")
    text = json.dumps({"file_name": "images/cup.png"} | row, ensure_ascii=False)
    (root / "train/metadata.jsonl").write_text(f"{text}\r\n", encoding)
    return root


def plain(root: Path, image: np.ndarray, mask: np.ndarray, text: str) -> Path:
    return table(root, image, mask, {"mask_file_name": "masks/cup.png", "text": text})


def with_a_mark(root: Path, image: np.ndarray, mask: np.ndarray, text: str) -> Path:
    return table(root, image, mask, {"mask_file_name": "masks/cup.png", "text": text}, "utf-8-sig")


def caption_column(root: Path, image: np.ndarray, mask: np.ndarray, text: str) -> Path:
    return table(root, image, mask, {"mask_file_name": "masks/cup.png", "caption": text})


def packed(root: Path, image: np.ndarray, mask: np.ndarray, text: str) -> Path:
    bits = base64.b64encode(zlib.compress(np.packbits(mask > 0).tobytes())).decode()
    return table(root, image, mask, {"mask": bits, "text": text})


def csv_at_the_top(root: Path, image: np.ndarray, mask: np.ndarray, text: str) -> Path:
    save(image, root / "cup.png")
    save(mask, root / "m/cup.png")
    (root / "metadata.csv").write_text(f"file_name,mask_file_name,prompt\ncup.png,m/cup.png,{text}\n", "utf-8-sig")
    return root


def kohya(root: Path, image: np.ndarray, mask: np.ndarray, text: str) -> Path:
    save(image, root / "cup.png").with_suffix(".txt").write_text(text, "utf-8-sig")
    save(mask, root / "masks/cup.png")
    return root


def kohya_toml(root: Path, image: np.ndarray, mask: np.ndarray, text: str) -> Path:
    kohya(root, image, mask, text)
    subset = '[[datasets]]\n[[datasets.subsets]]\nimage_dir = "."\nconditioning_data_dir = "masks"\n'
    (root / "set.toml").write_text(subset)
    return root / "set.toml"


def alpha(root: Path, image: np.ndarray, mask: np.ndarray, text: str) -> Path:
    save(np.dstack([image, mask]), root / "cup.png").with_suffix(".txt").write_text(text, "utf-8")
    return root


def saved(root: Path, image: np.ndarray, mask: np.ndarray, text: str, split: str | None = "train") -> Path:
    import datasets

    rows = {"image": [Image.fromarray(image)], "mask": [Image.fromarray(mask)], "caption": [text]}
    features = datasets.Features(
        {"image": datasets.Image(), "mask": datasets.Image(), "caption": datasets.Value("string")}
    )
    made = datasets.Dataset.from_dict(rows, features=features)
    (datasets.DatasetDict({split: made}) if split else made).save_to_disk(str(root))
    return root


def saved_without_splits(root: Path, image: np.ndarray, mask: np.ndarray, text: str) -> Path:
    return saved(root, image, mask, text, split=None)


LAYOUTS = [plain, with_a_mark, caption_column, packed, csv_at_the_top, kohya, kohya_toml, alpha, saved]
LAYOUTS += [saved_without_splits]


@pytest.mark.parametrize(
    "text", ["a red cup", "a\u2028red cup", "a\u0085red\x0ccup"], ids=["plain", "U+2028", "U+0085"]
)
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_what_check_accepts_trains(layout: Layout, text: str, draw: Draw, islands_mask: Draw, tmp_path: Path) -> None:
    image, mask = draw(1), islands_mask()
    source = str(layout(tmp_path / "set", image, mask.astype(np.uint8) * 255, text))
    assert list(check_dataset(source))[-1].startswith("0 errors")
    (record,) = read_records(source, "train")
    texture, read = record.read()
    np.testing.assert_array_equal(texture, image)
    np.testing.assert_array_equal(read, mask)
    (caption,) = record.captions
    assert caption.split() == text.split()
    assert record.mask.signature()
    assert read_records(source, "validation") == []


@pytest.mark.parametrize("suffix", [".jfif", ".avif", ".gif", ".webp", ".tga"])
def test_images_of_all_kinds_that_pillow_reads(draw: Draw, islands_mask: Draw, tmp_path: Path, suffix: str) -> None:
    mask = islands_mask().astype(np.uint8) * 255
    kohya(tmp_path / "set", draw(1), mask, "a red cup")
    kind = {".jfif": "JPEG"}.get(suffix)
    Image.fromarray(draw(2)).save(tmp_path / "set" / f"bowl{suffix}", kind)
    (tmp_path / "set" / "bowl.txt").write_text("a blue bowl")
    save(mask, tmp_path / "set/masks/bowl.png")
    assert list(check_dataset(str(tmp_path / "set")))[-1].startswith("0 errors")
    assert {record.captions for record in read_records(str(tmp_path / "set"), "train")} == {
        ("a red cup",),
        ("a blue bowl",),
    }


def test_what_check_calls_wrong_is_refused(draw: Draw, islands_mask: Draw, tmp_path: Path) -> None:
    mask = islands_mask().astype(np.uint8) * 255
    root = kohya(tmp_path / "set", draw(1), mask, "a red cup")
    save(mask, root / "masks/orphan.png")
    with pytest.raises(InputError, match=r"masks/orphan\.png: is a mask"):
        read_records(str(root), "train")
    (root / "masks/orphan.png").unlink()
    (root / "cup.txt").unlink()
    with pytest.raises(InputError, match=r"cup\.png: has no caption"):
        read_records(str(root), "train")
    save(draw(1), root / "metadata/bare.png")
    (root / "mesh.obj").write_text("v 0 0 0\n")
    with pytest.raises(InputError, match="contains meshes; make a dataset of them first"):
        read_records(str(root), "train")


@pytest.mark.slow
def test_a_run_on_a_folder_of_kohyas(draw: Draw, islands_mask: Draw, tmp_path: Path, train) -> None:
    mask = islands_mask().astype(np.uint8) * 255
    for number in range(2):
        save(draw(number), tmp_path / f"set/{number}.png").with_suffix(".txt").write_text(f"cup {number}")
        save(mask, tmp_path / f"set/masks/{number}.png")
    flags = ["--data.dataset", tmp_path / "set", "--run.output_dir", tmp_path / "run", "--run.max_train_steps", 1]
    result = train(*flags, "--run.train_batch_size", 2)
    assert result.returncode == 0, result.stderr
    assert "2 to train on, 0 held out" in result.stdout
    assert "mean coverage    37.5%" in result.stdout
    assert (tmp_path / "run/pytorch_lora_weights.safetensors").is_file()


def onetrainer(root: Path, name: str, text: bytes, draw: Draw, islands_mask: Draw, seed: int = 0) -> None:
    image = save(draw(seed), root / f"{name}.png")
    image.with_suffix(".txt").write_bytes(text)
    save(islands_mask().astype(np.uint8) * 255, root / f"{name}-masklabel.png")


def test_a_caption_in_another_encoding_costs_one_texture(
    draw: Draw, islands_mask: Draw, write_mesh, tmp_path: Path
) -> None:
    """In check, prepare and training, of images and of meshes; before, it ended them all."""
    folder = tmp_path / "set"
    for seed, (name, text) in enumerate((("a", b"a crate"), ("b", "gr\u00fcn".encode("latin-1")), ("c", b"a barrel"))):
        onetrainer(folder, name, text, draw, islands_mask, seed)
    why = "not readable as UTF-8 text"
    errors = [line for line in check_dataset(str(folder)) if ": error: " in line]
    assert len(errors) == 1
    assert errors[0].startswith("b.png: error: ")
    assert why in errors[0]
    with pytest.raises(InputError, match=f"b.png: .*{why}.*save it as UTF-8"):
        read_records(str(folder), "train")
    records = read_records(str(folder), "train", missing_ok=True)
    assert [record.captions for record in records] == [("a crate",), ("",), ("a barrel",)]
    with pytest.raises(InputError, match=why):
        records[1].read()
    summary = prepare_dataset([str(folder)], tmp_path / "made", workers=1)
    assert "2 textures kept" in summary
    (row,) = [
        row for row in map(json.loads, (tmp_path / "made/audit.jsonl").read_text().splitlines()) if not row["kept"]
    ]
    assert why in row["reason"]

    for name, text in (("d", b"a crate"), ("e", b"\xff")):
        write_mesh(tmp_path / f"meshes/{name}.glb", draw(ord(name)))
        (tmp_path / f"meshes/{name}.txt").write_bytes(text)
    assert "1 textures kept" in prepare_dataset([str(tmp_path / "meshes")], tmp_path / "of meshes", workers=1)


def test_what_a_dataset_holds_out_is_never_trained_on(
    draw: Draw, islands_mask: Draw, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Folders that are named as splits, and tables: in training, and through `texdiff prepare`."""
    folder, tables = tmp_path / "folders", tmp_path / "tables"
    for number, split in enumerate(("train", "test", "val")):
        for name in "ab":
            seed = 2 * number + ord(name)
            onetrainer(folder / split, f"{split}-{name}", split.encode(), draw, islands_mask, seed)
            image = save(draw(seed), tables / split / f"{name}.png")
            save(islands_mask().astype(np.uint8) * 255, image.with_name(f"m-{name}.png"))
            row = {"file_name": image.name, "mask_file_name": f"m-{name}.png", "text": split}
            with (image.parent / "metadata.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")
    assert [record.captions for record in read_records(str(folder), "train")] == [("train",)] * 2
    assert f"left out: 2 textures of the test split of {folder}" in capsys.readouterr().err
    assert [record.captions for record in read_records(str(folder), "validation")] == [("val",)] * 2
    assert [record.captions for record in read_records(str(tables), "train")] == [("train",)] * 2
    for source in (folder, tables):
        for fraction in (0.0, 0.05):
            made = tmp_path / f"made {source.name} {fraction}"
            assert "(2 train, 4 validation)" in prepare_dataset(
                [str(source)], made, workers=1, validation_fraction=fraction
            )
            assert [record.captions for record in read_records(str(made), "train")] == [("train",)] * 2
    # Without a folder to train on beside it, `test` is a name like any other; and a dataset of one split is used.
    assert len(read_records(str(tmp_path / "folders/test"), "train")) == 2
    (folder / "train").rename(folder / "cups")
    assert len(read_records(str(folder), "train")) == 6
    (tables / "test").rename(tmp_path / "alone")
    (tmp_path / "one/test").parent.mkdir()
    (tmp_path / "alone").rename(tmp_path / "one/test")
    assert "(1 train, 1 validation)" in prepare_dataset([str(tmp_path / "one")], tmp_path / "made of one", workers=1)


def test_a_missing_mask_names_the_layouts(draw: Draw, tmp_path: Path) -> None:
    opaque = np.dstack([draw(7), np.full((64, 64), 255, np.uint8)])
    for name, image in (("plain", draw(7)), ("opaque", opaque)):
        save(image, tmp_path / name / "10_red cup" / "cup.png")
        (record,) = read_records(str(tmp_path / name), "train")
        with pytest.raises(InputError) as error:
            record.read()
        for way in (
            "cup-masklabel.png (OneTrainer)",
            "cup_mask.png",
            "masks/cup.png (kohya",
            "alpha",
            "texdiff prepare",
        ):
            assert way in str(error.value)
