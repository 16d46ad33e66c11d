"""The cache of encoded textures and captions, on the embedded base's own encoders."""

import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from texdiff.config import SourceConfig
from texdiff.data.batch import LatentDataset
from texdiff.data.cache import encoders, keys
from texdiff.data.cache.encodings import CachedEncodings, Cells, texel_weights
from texdiff.data.cache.files import digests
from texdiff.data.cache.masks import mask_entries
from texdiff.data.cache.store import ArrayStore
from texdiff.data.mask_weights import MaskKind
from texdiff.data.mixture import Mixture
from texdiff.data.records import read_records
from texdiff.diffusion.mask import cell_weights
from texdiff.errors import InputError
from texdiff.models.base import load_base
from texdiff.models.family import load_family
from texdiff.uv.inverted import variation

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def family():
    return load_family("nano")


@pytest.fixture(scope="module")
def base(family):
    return family.base


@pytest.fixture
def store(tmp_path):
    return ArrayStore(tmp_path / "store")


def keys_of(folder, vae, **settings):
    settings = {"resolution": 64, "background": "fill", "weights": keys.fingerprint(vae)} | settings
    records = read_records(str(folder), "train")
    sources = [source for record in records for source in (record.image, record.mask)]
    found = digests(sources, ArrayStore(None), slice(None), lambda: None, progress=False)
    return keys.texture_keys(found[0::2], found[1::2], **settings)


def fill(store, folder, family):
    records, found = read_records(str(folder), "train"), keys_of(folder, family.base.vae)
    settings = {"resolution": 64, "background": "fill"}

    def encode(missing):
        return encoders.encode_textures([records[i] for i in missing], family, CPU, **settings)

    return encoders.fill_store(store, found, encode, what="", progress=False)


def test_an_entry_is_the_encoders_posterior_and_the_mask(dataset, store, base, family):
    records = read_records(str(dataset), "train")
    for record, place in zip(records, fill(store, dataset, family), strict=True):
        entry = store.get(int(place))
        picture, mask = record.model_input(64, "fill")
        with torch.no_grad():
            posterior = base.vae.encode(picture[None]).latent_dist
        assert np.array_equal(entry["mean"], posterior.mean[0])
        assert np.array_equal(entry["std"], posterior.std[0])
        assert np.array_equal(texel_weights(entry["mask"]) > 0, mask)
        texture, whole = record.read()
        expected = variation(texture, whole) or (np.nan, np.nan)
        np.testing.assert_allclose(entry["variation"], expected, rtol=1e-6)


def test_nothing_is_encoded_twice(dataset, store, base, family, tmp_path, monkeypatch):
    places = fill(store, dataset, family)
    moved = shutil.copytree(dataset, tmp_path / "moved")
    for path in moved.rglob("*.png"):
        os.utime(path, (1, 1))
    monkeypatch.setattr(type(base.vae), "encode", lambda *a: pytest.fail("encoded again"))
    assert np.array_equal(fill(store, moved, family), places)
    again = ArrayStore(store.place)
    assert (fill(again, moved, family) >= 0).all()


def test_whatever_changes_the_result_changes_the_key(dataset, base, tmp_path):
    before = keys_of(dataset, base.vae)
    assert len({*before, *keys_of(dataset, base.vae, resolution=32)}) == 12
    assert len({*before, *keys_of(dataset, base.vae, background=0)}) == 12
    assert len({*before, *keys_of(dataset, base.vae, extra=["more"])}) == 12
    edited = shutil.copytree(dataset, tmp_path / "edited")
    mask = np.asarray(Image.open(edited / "train/masks/0.png")).copy()
    mask[-1, -1] = 255
    Image.fromarray(mask).save(edited / "train/masks/0.png")
    texture = np.asarray(Image.open(edited / "train/textures/1.png")).copy()
    texture[0, 0, 0] ^= 1
    Image.fromarray(texture).save(edited / "train/textures/1.png")
    changed = keys_of(edited, base.vae)
    assert [a != b for a, b in zip(before, changed, strict=True)] == [True, True, False, False, False, False]
    other = load_base("nano").vae
    with torch.no_grad():
        next(other.parameters()).flatten()[0] += 1e-4
    assert not {*before} & {*keys_of(dataset, other)}


def test_captions_are_what_the_pipeline_computes(base, family):
    from diffusers import StableDiffusionPipeline

    captions = ["a rusty crate", "", "word " * 200]
    entries = encoders.encode_captions(captions, family, CPU)
    pipeline = StableDiffusionPipeline.from_pretrained(base.source, safety_checker=None)
    for caption, entry in zip(captions, entries, strict=True):
        expected, _ = pipeline.encode_prompt(caption, "cpu", 1, do_classifier_free_guidance=False)
        np.testing.assert_allclose(entry["text"], expected[0].detach(), rtol=1e-5, atol=1e-6)


def cached(folder, store, family, captions=("",), mode="nearest"):
    """The training split as `CachedEncodings`, and the texels of its latent masks."""
    records, places = read_records(str(folder), "train"), fill(store, folder, family)

    def latent(record, entry):
        mask = torch.from_numpy(texel_weights(entry["mask"]))[None, None]
        return Cells(*(plane[0].numpy() for plane in cell_weights(mask, (8, 8), mode)))

    masks, texts = ArrayStore(None), ArrayStore(None)
    entries = (store.get(int(place)) for place in places)
    for place, entry in enumerate(mask_entries(records, entries, latent, outside=False)):
        masks.add(place.to_bytes(16), entry)
    masks.flush()
    caption_keys = keys.caption_keys(captions, "weights")
    encoders.fill_store(
        texts,
        caption_keys,
        lambda missing: encoders.encode_captions([captions[i] for i in missing], family, CPU),
        what="",
        progress=False,
    )
    encoded = CachedEncodings(
        texture_store=store,
        texture_places=places,
        mask_store=masks,
        mask_places=(at := np.arange(len(records))),
        caption_store=texts,
        text_weights="weights",
    )
    facts = {"variation": torch.zeros(len(records), 2), "kinds": [MaskKind.BINARY] * len(records), "content": ""}
    facts["mixture"] = Mixture(records, [SourceConfig(path="")])
    return records, encoded, {"sums": torch.from_numpy(masks.column("sums", at)), **facts}


def test_batches_pick_captions_drop_them_and_zero_the_spread(make_dataset, store, family, tmp_path):
    folder = make_dataset(tmp_path / "several", [0.5, 1.0], text=["one", "two"])
    records, encoded, facts = cached(folder, store, family, ("", "one", "two"))
    textures = LatentDataset(records, encoded, **facts)
    assert textures.texels.tolist() == [32, 64]
    assert textures.latent_shape == (4, 8, 8)
    chance = torch.tensor([[0.1, 0.5], [0.9, 0.5], [0.9, 0.05]])
    batch = textures.batch([0, 1, 1], chance, caption_dropout=0.1)
    expected = encoders.encode_captions(["one", "two", ""], family, CPU)
    for row, entry in enumerate(expected):
        assert np.array_equal(batch.prompt["text"][row], entry["text"])
    assert batch.mask.sum(dim=(1, 2, 3)).tolist() == [32, 64, 64]
    assert (batch.std > 0).all()
    assert (LatentDataset(records, encoded, **facts, posterior="mean").batch([0]).std == 0).all()
    with pytest.raises(InputError, match="the cache entry of 'three' has gone"):
        encoded.captions(["three"])


def test_a_mask_that_vanishes_at_latent_size_is_refused_by_name(make_dataset, store, family, tmp_path):
    folder = make_dataset(tmp_path / "thin", [1.0, 0.5])
    mask = np.zeros((64, 64), np.uint8)
    mask[3, 3] = 255
    Image.fromarray(mask).save(folder / "train/masks/1.png")
    records, encoded, facts = cached(folder, store, family)
    with pytest.raises(InputError, match=r"textures/1\.png: none of its covered texels is left at latent size"):
        LatentDataset(records, encoded, **facts)
    records, encoded, facts = cached(folder, store, family, mode="any")
    assert LatentDataset(records, encoded, **facts).texels.tolist() == [64, 1]


def test_fingerprint_sees_weights_and_settings_and_only_them(base, tmp_path):
    other = load_base("nano").text_encoder
    assert keys.fingerprint(base.text_encoder) == keys.fingerprint(other)
    copy = load_base(str(shutil.copytree(base.source, tmp_path / "copy")))
    assert keys.fingerprint(base.vae) == keys.fingerprint(copy.vae)
    with torch.no_grad():
        next(other.parameters()).flatten()[-1] += 1e-4
    assert keys.fingerprint(base.text_encoder) != keys.fingerprint(other)
    copy.vae.register_to_config(act_fn="relu", scaling_factor=0.5)
    assert keys.fingerprint(base.vae) != keys.fingerprint(copy.vae)
