"""The cache of encoded textures and captions, on the embedded base's own encoders."""

import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from texdiff.data.batch import LatentDataset
from texdiff.data.cache import TensorStore, cache_captions, cache_textures, fingerprint, read_texture
from texdiff.data.dataset import read_records
from texdiff.diffusion.mask import latent_weights
from texdiff.errors import InputError
from texdiff.training.models import load_base


@pytest.fixture(scope="module")
def base():
    return load_base("nano")


@pytest.fixture
def store(tmp_path):
    return TensorStore(tmp_path / "store")


def keys_of(folder, store, vae, **settings):
    settings = {"resolution": 64, "background": "fill", "progress": False} | settings
    return cache_textures(read_records(str(folder), "train"), store, vae, **settings)


def test_an_entry_is_the_encoders_posterior_and_the_mask(dataset, store, base):
    records = read_records(str(dataset), "train")
    keys = keys_of(dataset, store, base.vae)
    for record, key in zip(records, keys, strict=True):
        entry = read_texture(store, key, record.name)
        picture, mask = record.model_input(64, "fill")
        with torch.no_grad():
            posterior = base.vae.encode(picture[None]).latent_dist
        assert torch.equal(entry.mean, posterior.mean[0])
        assert torch.equal(entry.std, posterior.std[0])
        assert np.array_equal(entry.mask[0].numpy() > 0, mask)


def test_nothing_is_encoded_twice(dataset, store, base, tmp_path, monkeypatch):
    keys = keys_of(dataset, store, base.vae)
    moved = shutil.copytree(dataset, tmp_path / "moved")
    for path in moved.rglob("*.png"):
        os.utime(path, (1, 1))
    monkeypatch.setattr(type(base.vae), "encode", lambda *a: pytest.fail("encoded again"))
    assert keys_of(moved, store, base.vae) == keys


def test_whatever_changes_the_result_changes_the_key(dataset, store, base, tmp_path):
    keys = keys_of(dataset, store, base.vae)
    assert len({*keys, *keys_of(dataset, store, base.vae, resolution=32)}) == 12
    assert len({*keys, *keys_of(dataset, store, base.vae, background=0)}) == 12
    edited = shutil.copytree(dataset, tmp_path / "edited")
    mask = np.asarray(Image.open(edited / "train/masks/0.png")).copy()
    mask[-1, -1] = 255
    Image.fromarray(mask).save(edited / "train/masks/0.png")
    texture = np.asarray(Image.open(edited / "train/textures/1.png")).copy()
    texture[0, 0, 0] ^= 1
    Image.fromarray(texture).save(edited / "train/textures/1.png")
    changed = keys_of(edited, store, base.vae)
    assert [a != b for a, b in zip(keys, changed, strict=True)] == [True, True, False, False, False, False]
    other = load_base("nano").vae
    with torch.no_grad():
        next(other.parameters()).flatten()[0] += 1e-4
    assert not {*keys} & {*keys_of(dataset, store, other)}


def test_a_damaged_entry_is_made_again(dataset, store, base):
    keys = keys_of(dataset, store, base.vae)
    whole = store.get(keys[0])["mean"].clone()  # what is read is a view of the file, which is about to be spoilt
    store.path(keys[0]).write_bytes(store.path(keys[0]).read_bytes()[:100])
    assert store.get(keys[0]) is None
    keys_of(dataset, store, base.vae)
    assert torch.equal(store.get(keys[0])["mean"], whole)


def test_an_entry_that_has_gone_is_named(dataset, store, base):
    key = keys_of(dataset, store, base.vae)[0]
    store.path(key).unlink()
    with pytest.raises(InputError, match=r"the cache entry of crate\.png has gone"):
        read_texture(store, key, "crate.png")


def test_captions_are_what_the_pipeline_computes(store, base):
    from diffusers import StableDiffusionPipeline

    captions = ["a rusty crate", "", "a rusty crate", "word " * 200]
    keys = cache_captions(captions, store, base.tokenizer, base.text_encoder, progress=False)
    assert len(keys) == 3
    pipeline = StableDiffusionPipeline.from_pretrained(base.source, safety_checker=None)
    for caption, key in keys.items():
        expected, _ = pipeline.encode_prompt(caption, "cpu", 1, do_classifier_free_guidance=False)
        torch.testing.assert_close(store.get(key)["text"], expected[0], rtol=1e-5, atol=1e-6)


def test_batches_pick_captions_drop_them_and_zero_the_spread(make_dataset, store, base, tmp_path):
    folder = make_dataset(tmp_path / "several", [0.5, 1.0], text=["one", "two"])
    records = read_records(str(folder), "train")
    keys = keys_of(folder, store, base.vae)
    captions = cache_captions(["", "one", "two"], store, base.tokenizer, base.text_encoder, progress=False)

    def latent(mask):
        return latent_weights(mask, (8, 8))

    textures = LatentDataset(records, store, keys, captions, latent)
    assert textures.texels.tolist() == [32, 64]
    assert textures.latent_shape == (4, 8, 8)
    chance = torch.tensor([[0.1, 0.5], [0.9, 0.5], [0.9, 0.05]])
    batch = textures.batch([0, 1, 1], chance, caption_dropout=0.1)
    for row, caption in enumerate(["one", "two", ""]):
        assert torch.equal(batch.text[row], store.get(captions[caption])["text"])
    assert batch.mask.sum(dim=(1, 2, 3)).tolist() == [32, 64, 64]
    assert (batch.std > 0).all()
    assert (LatentDataset(records, store, keys, captions, latent, "mean").batch([0]).std == 0).all()


def test_a_mask_that_vanishes_at_latent_size_is_refused_by_name(make_dataset, store, base, tmp_path):
    folder = make_dataset(tmp_path / "thin", [1.0, 0.5])
    mask = np.zeros((64, 64), np.uint8)
    mask[3, 3] = 255
    Image.fromarray(mask).save(folder / "train/masks/1.png")
    records, keys = read_records(str(folder), "train"), keys_of(folder, store, base.vae)
    with pytest.raises(InputError, match=r"textures/1\.png: none of its covered texels is left at latent size"):
        LatentDataset(records, store, keys, {}, lambda m: latent_weights(m, (8, 8)))
    assert LatentDataset(records, store, keys, {}, lambda m: latent_weights(m, (8, 8), "any")).texels.tolist() == [
        64,
        1,
    ]


def test_fingerprint_sees_weights_and_only_them(base):
    other = load_base("nano").text_encoder
    assert fingerprint(base.text_encoder) == fingerprint(other)
    with torch.no_grad():
        next(other.parameters()).flatten()[-1] += 1e-4
    assert fingerprint(base.text_encoder) != fingerprint(other)
