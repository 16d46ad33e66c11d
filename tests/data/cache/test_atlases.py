"""Atlases larger than what the denoiser sees: encoded in tiles, and read in windows with masks and maps cut alike."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from position_maps import add_maps

from texdiff.config import DataConfig, MaskConfig
from texdiff.data.cache.atlases import encode_tiles, map_entry, read_part, tile_starts
from texdiff.data.cache.encode import encode_dataset
from texdiff.data.cache.encoders import AtlasSize
from texdiff.data.records import read_records
from texdiff.diffusion.crops import draw_scales
from texdiff.errors import InputError
from texdiff.models.family import load_family
from texdiff.training.parallel import Parallel


@given(cells=st.integers(1, 200), tile=st.integers(4, 40), overlap=st.integers(0, 3))
def test_tiles_cover_an_atlas_evenly(cells, tile, overlap):
    starts = tile_starts(max(cells, tile), tile, overlap)
    assert (starts[0], starts[-1] + tile) == (0, max(cells, tile))
    gaps = np.diff(starts)
    assert (gaps <= tile - overlap).all()
    assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1
    assert len(starts) == 1 or (len(starts) - 2) * (tile - overlap) + tile < max(cells, tile)  # none is too many


@pytest.mark.parametrize("at_once", [1, 5])
def test_an_encoder_that_sees_its_own_cell_alone_says_the_same_in_tiles(at_once):
    pixels = torch.rand(3, 8 * 37, 8 * 37)
    shapes = set()

    def encode(batch):
        shapes.add(batch.shape[1:])
        return F.avg_pool2d(batch, 8), F.max_pool2d(batch, 8)

    found = encode_tiles(pixels, encode, 8, 16, at_once)
    assert shapes == {(3, 128, 128)}
    for moment, expected in zip(found, encode(pixels[None]), strict=True):
        torch.testing.assert_close(moment, expected[0])
    small = pixels[:, :128, :128]
    assert all(
        torch.equal(a, b[0]) for a, b in zip(encode_tiles(small, encode, 8, 16), encode(small[None]), strict=True)
    )


def test_where_tiles_overlap_the_one_that_sees_more_around_a_cell_counts_more():
    numbers = iter((0.0, 1.0, 0.0, 1.0))  # left and right, above and below

    def encode(batch):
        return (torch.full((1, 1, 32, 32), next(numbers)),) * 2

    assert tile_starts(56, 32, 8) == [0, 24]
    mean, _ = encode_tiles(torch.zeros(3, 56, 56), encode, 1, 32)
    assert (mean[0, :, :24] == 0).all()
    assert (mean[0, :, 32:] == 1).all()
    between = mean[0, 0, 24:32]
    torch.testing.assert_close(between, (torch.arange(8) + 0.5) / 8)


@pytest.mark.parametrize(
    ("shape", "scale", "side"),
    [
        ((1024, 1024), 1.0, 1024),
        ((4096, 4096), 1.0, 2048),  # no larger than asked for
        ((4096, 4096), 0.5, 1024),
        ((600, 1000), 1.0, 1000),  # by its longer side
        ((601, 603), 1.0, 600),  # in multiples of 8
        ((100, 100), 1.0, 256),  # no smaller than what the denoiser sees
        ((2048, 2048), 0.0, 256),  # all of it at once
    ],
)
def test_the_size_of_an_atlas_is_its_own_within_bounds(shape, scale, side):
    assert AtlasSize(256, 2048, scale, 8).of(*shape) == side


@settings(max_examples=30, deadline=None)
@given(size=st.integers(3, 20), tile=st.integers(3, 8), data=st.data())
def test_a_part_of_a_map_is_read_from_its_tiles(size, tile, data):
    values = np.random.default_rng(size).integers(0, 65536, (size, size, 3), dtype=np.uint16)
    side = data.draw(st.integers(1, size))
    top, left = (data.draw(st.integers(0, size - side)) for _ in range(2))
    entry = map_entry(values, tile)
    part = read_part(entry, size, tile, top, left, side)
    assert np.array_equal(part, values[top : top + side, left : left + side])


@pytest.fixture(scope="module")
def atlases(make_dataset, tmp_path_factory):
    """Of 160 px, with position maps; what is covered begins at the top."""
    return add_maps(make_dataset(tmp_path_factory.mktemp("atlases"), [0.3, 1.0, 0.08, 0.6], size=160))


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("encoded")


def encoded(folder, cache_dir, mask=None, posterior="sample", column=None, **data):
    settings = {"resolution": 64, "source_resolution": 160} | data
    data = DataConfig(dataset=str(folder), cache_dir=str(cache_dir), posterior=posterior, **settings)
    records = read_records(str(folder), "train", layout_column=column)
    return encode_dataset(data, mask or MaskConfig(), load_family("nano"), records, [], Parallel(cpu=True))[0]


def test_a_window_is_cut_from_latents_masks_and_maps_alike(atlases, cache_dir):
    textures = encoded(
        atlases, cache_dir, MaskConfig(pixel_weight=0.1, unmasked_weight=0.2), column="layout", scales=(1, 0)
    )
    keys = [(epoch, index) for epoch in range(3) for index in range(4)]
    batch = textures.seen(7, keys)
    views = textures.views(7, keys)
    assert batch.mean.shape == (12, 4, 8, 8)
    assert [view % 2 for view in views] == draw_scales(7, keys, 2)
    for row, ((_, index), view) in enumerate(zip(keys, views, strict=True)):
        record = textures.records[index]
        size, width, top, left, height, side = batch.sizes[row].tolist()
        assert (size, width, height, side) == (160 if view % 2 == 0 else 64, size, 64, 64)
        assert (top % 8, left % 8) == (0, 0)
        _, weights = record.fit(*record.read_weighted(), size, "fill")
        mask = weights[top : top + 64, left : left + 64] > 0
        covered = mask.reshape(8, 8, 8, 8).mean(axis=(1, 3))
        np.testing.assert_allclose(batch.covered[row, 0], covered)
        even = batch.even[row, 0].numpy()
        np.testing.assert_allclose(batch.mask[row, 0], mask[::8, ::8] * even)
        np.testing.assert_allclose(batch.outside[row, 0], 0.2 * ~mask[::8, ::8] * even, rtol=1e-6)
        np.testing.assert_allclose(batch.texels[row, 0], mask * np.kron(even, np.ones((8, 8))), rtol=1e-6)
        whole = record.layout_map(size)[top : top + 64, left : left + 64]
        np.testing.assert_allclose(batch.layout[row].permute(1, 2, 0), whole / np.float32(65535))
        entry = textures.encoded.texture_store.get(int(textures.encoded.texture_places[view]))
        cells = slice(top // 8, top // 8 + 8), slice(left // 8, left // 8 + 8)
        assert np.array_equal(batch.mean[row], entry["mean"][:, *cells])
        assert np.array_equal(batch.std[row], entry["std"][:, *cells])
        if size == 64:
            assert (even == 1).all()
    assert (encoded(atlases, cache_dir, posterior="mean").seen(0, keys[:1]).std == 0).all()


@pytest.mark.parametrize("floor", [0.0, 0.9])
def test_every_covered_cell_of_an_atlas_weighs_the_same_over_many_visits(floor, atlases, cache_dir):
    textures = encoded(atlases, cache_dir, MaskConfig(downsample="any"), min_crop_coverage=floor)
    visits = 600
    for index in (0, 2):
        total, seen = np.zeros((20, 20)), []
        keys = [(epoch, index) for epoch in range(visits)]
        batch = textures.seen(0, keys)
        for mask, (_, _, top, left, _, _) in zip(batch.mask[:, 0].numpy(), batch.sizes.tolist(), strict=True):
            total[top // 8 : top // 8 + 8, left // 8 : left // 8 + 8] += mask
            seen.append(mask.sum())
        counts = textures.cells(index).target[0] > 0
        each = total[counts] / visits
        assert each.std() / each.mean() < 0.08  # edges and corners of the atlas included
        assert each.max() / each.min() < 1.6
        assert (total[~counts] == 0).all()
        # What a visit is expected to count is what the loss is divided by.
        assert np.mean(seen) == pytest.approx(textures.texels[index].item(), rel=0.02)
        assert min(seen) > 0


def test_nothing_is_encoded_twice_and_only_what_is_new(atlases, cache_dir, monkeypatch):
    first = encoded(atlases, cache_dir)
    family = load_family("nano")
    passes = []
    encode = type(family).encode_images
    monkeypatch.setattr(type(family), "encode_images", lambda self, p: passes.append(p.shape) or encode(self, p))
    again = encoded(atlases, cache_dir, MaskConfig(downsample="area"), min_crop_coverage=0.3)
    assert passes == []
    assert torch.equal(again.batch([0]).mean, first.batch([0]).mean)
    encoded(atlases, cache_dir, scales=(1.0, 0.7))
    assert {tuple(shape) for shape in passes} == {(1, 3, 64, 64)}
    assert len(passes) == 4 * 4  # 112 px in 2 x 2 tiles


def test_a_small_atlas_is_as_without_windows_but_for_nothing(make_dataset, tmp_path):
    folder = make_dataset(tmp_path / "small", [0.3, 1.0], size=64)
    records = read_records(str(folder), "train")
    encode = partial(encode_dataset, family=load_family("nano"), records=records, held_out=[], ranks=Parallel(cpu=True))
    pair = []
    for most in (None, 512):
        data = DataConfig(dataset=str(folder), cache="memory", resolution=64, source_resolution=most)
        pair.append(encode(data, MaskConfig())[0])
    usual, cut = (textures.seen(0, [(3, 0), (5, 1)]) for textures in pair)
    for name in ("mean", "std", "mask", "outside", "covered"):
        assert torch.equal(getattr(usual, name), getattr(cut, name)), name
    assert torch.equal(pair[0].texels, pair[1].texels)
    assert usual.sizes is None
    assert cut.sizes.tolist() == [[64, 64, 0, 0, 64, 64]] * 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source_resolution": 64, "resolution": 128}, "data.source_resolution must be at least data.resolution, 128"),
        ({"scales": (1.0, 0.5)}, "data.scales needs data.source_resolution"),
        ({"min_crop_coverage": 0.1}, "data.min_crop_coverage needs data.source_resolution"),
        ({"source_resolution": 512, "cache": "off"}, "data.source_resolution needs data.cache disk or memory"),
        ({"source_resolution": 512, "scales": (1.0, 2.0)}, "data.scales must be one or more numbers from 0 to 1"),
        ({"source_resolution": 512, "scales": ()}, "data.scales must be one or more numbers from 0 to 1"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    from texdiff.config import TrainingConfig

    with pytest.raises(InputError, match=message):
        TrainingConfig(data=DataConfig(dataset="d", **settings))
