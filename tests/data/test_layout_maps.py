"""Layout maps of a dataset: found, fitted, cached, and in the batch."""

import json
import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from position_maps import add_maps, ramp

from texdiff.config import DataConfig, MaskConfig
from texdiff.data.cache.encode import encode_dataset
from texdiff.data.cache.files import readable
from texdiff.data.cache.store import ArrayStore
from texdiff.data.records import read_records
from texdiff.errors import InputError
from texdiff.models.family import load_family
from texdiff.training.parallel import Parallel
from texdiff.uv.layout.map_image import encode_map

read = partial(read_records, split="train", layout_column="layout")


@pytest.fixture
def mapped(dataset, tmp_path):
    return add_maps(shutil.copytree(dataset, tmp_path / "dataset"))


def encoded(folder, tmp_path, records=None, **settings):
    data = DataConfig(dataset=str(folder), cache_dir=str(tmp_path / "cache"), **{"resolution": 64} | settings)
    splits = (records or read(str(folder)), [])
    return encode_dataset(data, MaskConfig(), load_family("nano"), *splits, Parallel(cpu=True))[0]


def change_row(folder, number, **cells):
    path = folder / "train/metadata.jsonl"
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    rows[number] |= cells
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def test_maps_are_read_where_they_are_asked_for(mapped):
    assert all(record.layout is None for record in read_records(str(mapped), "train"))
    for record in read(str(mapped)):
        mask = record.read_mask()
        assert np.array_equal(record.layout_map(64), ramp(mask))
        assert np.array_equal((record.layout_map(64) > 0).all(axis=2), mask)


def test_any_column_of_any_dataset_will_do(dataset, tmp_path):
    import datasets

    other = add_maps(shutil.copytree(dataset, tmp_path / "other"), column="conditioning_image")
    expected = [ramp(record.read_mask()) for record in read_records(str(dataset), "train")]
    found = read_records(str(other), "train", layout_column="conditioning_image")
    assert [np.array_equal(a.layout_map(64), b) for a, b in zip(found, expected, strict=True)] == [True] * 6
    table = datasets.load_dataset("imagefolder", data_dir=str(other), cache_dir=str(tmp_path / "hf"))
    # What the library decodes itself has 8 bits; undecoded, bytes are kept.
    rows = table["train"].cast_column("conditioning_image", datasets.Image(decode=False))
    (tmp_path / "hub").mkdir()
    rows.to_parquet(tmp_path / "hub" / "train-00000-of-00001.parquet")
    found = read_records(str(tmp_path / "hub"), "train", layout_column="conditioning_image")
    assert [np.array_equal(a.layout_map(64), b) for a, b in zip(found, expected, strict=True)] == [True] * 6
    with pytest.raises(InputError, match=r"has no layout map .* in column layout"):
        read(str(tmp_path / "hub"))


def test_a_table_with_other_names_too(mapped, tmp_path):
    table = "image_file_name,mask_file_name,text,layout_file_name\ntextures/2.png,masks/2.png,crate,layouts/2.png\n"
    (mapped / "train/metadata.jsonl").unlink()
    (mapped / "train/metadata.csv").write_text(table)
    (record,) = read(str(mapped))
    assert np.array_equal(record.layout_map(64), ramp(record.read_mask()))
    (record,) = read_records(str(mapped), "train")
    assert record.layout is None


def test_every_record_needs_one(mapped):
    change_row(mapped, 1, layout_file_name=None)
    with pytest.raises(InputError, match=r"1\.png: has no layout map in column layout; prepare the dataset again"):
        read(str(mapped))
    change_row(mapped, 2, layout_file_name=None)
    with pytest.raises(InputError, match=r"1\.png: has no layout map \(nor have 1 others\)"):
        read(str(mapped))
    change_row(mapped, 1, layout_file_name="../../../etc/passwd")
    with pytest.raises(InputError, match="leads out of"):
        read(str(mapped))
    change_row(mapped, 1, layout_file_name="layouts/none.png")
    with pytest.raises(InputError, match=r"none\.png: does not exist"):
        read(str(mapped))


@pytest.mark.parametrize("cache", ["memory", "off"])
def test_a_map_that_cannot_be_read_is_named_before_anything_is_trained(mapped, tmp_path, cache):
    (mapped / "train/layouts/1.png").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"textures/1\.png: the layout map is not an image"):
        encoded(mapped, tmp_path, cache=cache)
    kept = readable(read(str(mapped)), ArrayStore(None), resolution=64, say=False)
    assert [record.name[-5:] for record in kept] == ["0.png", "2.png", "3.png", "4.png", "5.png"]


@pytest.mark.parametrize("cache", ["disk", "memory", "off"])
@pytest.mark.parametrize("resolution", [64, 32, 40])
def test_a_batch_has_the_maps_own_values_at_the_images_size(mapped, tmp_path, cache, resolution):
    records = read(str(mapped))
    batch = encoded(mapped, tmp_path, cache=cache, resolution=resolution).batch([3, 0])
    assert batch.layout.dtype == torch.float32
    assert batch.layout.shape == (2, 3, resolution, resolution)
    at = [int((i + 0.5) * 64 / resolution) for i in range(resolution)]
    for row, index in enumerate((3, 0)):
        expected = ramp(records[index].read_mask())[np.ix_(at, at)]
        assert np.array_equal(batch.layout[row].permute(1, 2, 0).numpy() * np.float32(65535), expected)
    assert torch.equal(batch.to(torch.device("cpu"), torch.bfloat16).layout, batch.layout)


def test_a_map_of_another_size_lies_in_the_same_square(mapped, tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (16, 32, 3), dtype=np.uint16)
    (mapped / "train/layouts/1.png").write_bytes(encode_map(values))
    batch = encoded(mapped, tmp_path).batch([1])
    expected = values.repeat(4, axis=0).repeat(2, axis=1).astype(np.float32) / 65535
    assert np.array_equal(batch.layout[0].permute(1, 2, 0), expected)


def test_the_cache_is_used_and_sees_a_changed_map(mapped, tmp_path):
    first = encoded(mapped, tmp_path)
    again = encoded(mapped, tmp_path)
    assert again.content == first.content
    assert len(list((tmp_path / "cache").glob("layouts-*/*.arrow"))) == 1
    values = ramp(np.ones((64, 64), bool))
    values[5, 6, 1] ^= 1
    (mapped / "train/layouts/1.png").write_bytes(encode_map(values))
    changed = encoded(mapped, tmp_path)
    assert changed.content != first.content
    assert (changed.batch([1]).layout - first.batch([1]).layout).count_nonzero() == 1
    assert len(list((tmp_path / "cache").glob("textures-*/*.arrow"))) == 1


def test_without_maps_nothing_changes(dataset, mapped, tmp_path):
    plain = encoded(dataset, tmp_path, read_records(str(dataset), "train"))
    assert plain.batch([0, 1]).layout is None
    assert plain.batch([0, 1]).to(torch.device("cpu"), torch.float32).layout is None
    ignored = encoded(mapped, tmp_path, read_records(str(mapped), "train"))
    assert ignored.content == plain.content
    assert not list((tmp_path / "cache").glob("layouts-*"))


def test_a_map_that_vanishes_in_the_middle_of_an_epoch(mapped, tmp_path, capsys):
    textures = encoded(mapped, tmp_path, cache="off", unreadable="skip")
    before = textures.batch([0, 1])
    (mapped / "train/layouts/1.png").unlink()
    after = textures.batch([0, 1])
    assert "left out, 1 visits so far: " in capsys.readouterr().err
    assert after.mask[1].sum() == after.layout[1].sum() == 0
    assert torch.equal(after.layout[0], before.layout[0])


def test_maps_of_8_bits_are_values_of_255(mapped, tmp_path):
    grey = np.asarray(Image.open(mapped / "train/masks/2.png"))
    picture = np.where(grey[..., None] > 0, np.random.default_rng(0).integers(1, 256, (64, 64, 3)), 0).astype(np.uint8)
    Image.fromarray(picture).save(mapped / "train/layouts/2.png")
    batch = encoded(mapped, tmp_path).batch([2])
    np.testing.assert_allclose(batch.layout[0].permute(1, 2, 0), picture / 255, atol=1e-7)
    assert replace(batch, layout=None).layout is None
