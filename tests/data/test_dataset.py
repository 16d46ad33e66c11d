"""Records of a dataset, and what the model gets to see of them."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from texdiff.data.image_source import StoredFile
from texdiff.data.records import mean_coverage, read_records
from texdiff.errors import InputError


@pytest.fixture
def copy(dataset, tmp_path):
    """The dataset, to be spoilt."""
    return shutil.copytree(dataset, tmp_path / "dataset")


def rows(folder, split="train"):
    return [json.loads(line) for line in (folder / split / "metadata.jsonl").read_text("utf-8").splitlines()]


def write_rows(folder, lines):
    (folder / "train" / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")


def test_records_are_what_is_on_disk(dataset):
    records = read_records(str(dataset), "train")
    assert [r.captions for r in records] == [(f"colours number {i}",) for i in range(6)]
    texture, mask = records[2].read()
    assert np.array_equal(texture, np.asarray(Image.open(dataset / "train/textures/2.png")))
    assert np.array_equal(mask, np.asarray(Image.open(dataset / "train/masks/2.png")) > 0)
    assert len(read_records(str(dataset), "validation")) == 2
    assert read_records(str(dataset), "test") == []
    assert mean_coverage(records) == pytest.approx(np.mean([r.read_mask().mean() for r in records]))


def test_of_a_large_dataset_that_does_not_say_them_few_masks_are_read(dataset):
    read = []

    class Counted(StoredFile):
        def __call__(self):
            read.append(self.path)
            return super().__call__()

    known = read_records(str(dataset), "train")
    records = [replace(r, coverage=None, mask=Counted(r.mask.path)) for r in known for _ in range(500)]
    assert mean_coverage(records) == pytest.approx(mean_coverage(known), abs=0.01)
    assert 500 <= len(read) <= 1000
    assert mean_coverage([replace(r, coverage=0.25) for r in records]) == 0.25
    assert len(read) <= 1000


def test_the_same_through_the_datasets_library(dataset, tmp_path):
    import datasets

    table = datasets.load_dataset("imagefolder", data_dir=str(dataset), cache_dir=str(tmp_path / "hf"))
    assert {"image", "mask", "text"} <= set(table["train"].column_names)
    for split in ("train", "validation"):
        (tmp_path / "hub").mkdir(exist_ok=True)
        table[split].to_parquet(tmp_path / "hub" / f"{split}-00000-of-00001.parquet")
    ours, theirs = read_records(str(dataset), "train"), read_records(str(tmp_path / "hub"), "train")
    for one, other in zip(ours, theirs, strict=True):
        assert one.captions == other.captions
        assert all(np.array_equal(a, b) for a, b in zip(one.read(), other.read(), strict=True))
    with pytest.raises(InputError, match=r"data\.mask_column: .* has no column uv; it has .*mask"):
        read_records(str(tmp_path / "hub"), "train", mask_column="uv")
    with pytest.raises(InputError, match=r"data\.dataset: .*nowhere"):
        read_records(str(tmp_path / "nowhere"), "train")


@pytest.mark.parametrize("void", ["noise", (0, 0, 0), (255, 0, 255)], ids=["noise", "black", "magenta"])
def test_what_lies_in_the_void_does_not_reach_the_model(dataset, copy, void):
    path = copy / "train/textures/2.png"
    mask = np.asarray(Image.open(copy / "train/masks/2.png")) > 0
    texture = np.asarray(Image.open(path)).copy()
    random = np.random.default_rng(1).integers(0, 256, texture.shape, dtype=np.uint8)
    texture[~mask] = random[~mask] if void == "noise" else void
    Image.fromarray(texture).save(path)
    for resolution in (64, 32, 96):
        for background in ("fill", 128):
            one, other = (
                read_records(str(d), "train")[2].model_input(resolution, background)[0] for d in (dataset, copy)
            )
            assert np.array_equal(one, other)
    one, other = (read_records(str(d), "train")[2].model_input(64, "keep")[0] for d in (dataset, copy))
    assert not np.array_equal(one, other)


def test_covered_texels_reach_the_model_as_they_are(dataset):
    record = read_records(str(dataset), "train")[2]
    texture, mask = record.read()
    for background in ("fill", "keep", 7):
        picture, small = record.model_input(64, background)
        assert picture.shape == (3, 64, 64)
        assert np.array_equal(small, mask)
        back = np.rint((picture.permute(1, 2, 0).numpy() + 1) * 127.5)
        assert np.array_equal(back[mask], texture[mask])
    assert (back[~mask] == 7).all()


def test_a_picture_that_is_not_square_is_brought_to_one(copy):
    Image.fromarray(np.zeros((64, 32, 3), np.uint8)).save(copy / "train/textures/0.png")
    Image.fromarray(np.full((64, 32), 255, np.uint8)).save(copy / "train/masks/0.png")
    picture, mask = read_records(str(copy), "train")[0].model_input(40, "fill")
    assert picture.shape == (3, 40, 40)
    assert mask.all()


def test_faults_of_a_record_are_named(copy):
    def refused(match):
        with pytest.raises(InputError, match=match):
            read_records(str(copy), "train")[1].model_input(64, "fill")

    (copy / "train/textures/1.png").write_bytes(b"no picture")
    refused(r"textures/1\.png: the texture is not an image")
    Image.fromarray(np.zeros((64, 32, 3), np.uint8)).save(copy / "train/textures/1.png")
    refused(r"textures/1\.png: texture is 32x64 but mask is 64x64")
    Image.fromarray(np.zeros((64, 32), np.uint8)).save(copy / "train/masks/1.png")
    refused(r"textures/1\.png: the mask is empty")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda row: row.pop("mask_file_name"), "has no mask_file_name"),
        (lambda row: row.update(file_name="textures/none.png"), r"none\.png: does not exist"),
        (lambda row: row.update(file_name="../../../etc/passwd"), "leads out of"),
        (lambda row: row.update(text=[]), "text is neither"),
        (lambda row: row.pop("text"), "text is neither"),
    ],
)
def test_faults_of_the_table_are_named(copy, change, match):
    lines = rows(copy)
    change(lines[1])
    write_rows(copy, lines)
    with pytest.raises(InputError, match=match):
        read_records(str(copy), "train")
    (copy / "train/metadata.jsonl").write_text("{\n")
    with pytest.raises(InputError, match="line 1: not valid JSON"):
        read_records(str(copy), "train")
    (copy / "train/metadata.jsonl").write_text("")
    with pytest.raises(InputError, match="has no texture"):
        read_records(str(copy), "train")
