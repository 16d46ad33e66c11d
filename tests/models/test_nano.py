"""`nano` is a pipeline folder like any other, also when it is asked for twice at once."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from transformers import CLIPTokenizer  # noqa: F401 - not by two threads at once

from texdiff.demo.patterns import paint, random_pattern
from texdiff.errors import InputError
from texdiff.models.nano import nano_folder


@pytest.fixture(scope="module")
def nano(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield nano_folder()


@pytest.fixture(scope="module")
def pipeline(nano):
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(nano, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_shapes_are_stable_diffusions(pipeline):
    parts = [pipeline.unet, pipeline.vae, pipeline.text_encoder]
    assert {p.dtype for part in parts for p in part.parameters()} == {torch.float32}
    assert 2 * sum(p.numel() for part in parts for p in part.parameters()) <= 16e6  # bytes in half precision
    with torch.no_grad():
        latent = pipeline.vae.encode(torch.zeros(1, 3, 256, 256)).latent_dist.mean
        assert latent.shape == (1, 4, 32, 32)
        assert pipeline.vae.decode(latent).sample.shape == (1, 3, 256, 256)
    ids = pipeline.tokenizer("a photo of a cat").input_ids
    assert ids == [49406, 320, 1125, 539, 320, 2368, 49407]  # as CLIP's own tokenizer has it
    schedule = pipeline.scheduler.config
    assert (schedule.beta_schedule, schedule.prediction_type) == ("scaled_linear", "epsilon")


def test_it_paints(pipeline):
    picture = pipeline("red brick", num_inference_steps=2, output_type="np").images[0]
    assert picture.shape == (256, 256, 3)


def test_made_twice_at_once_it_is_one_atomic_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with ThreadPoolExecutor(2) as pool:
        folders = {future.result() for future in [pool.submit(nano_folder), pool.submit(nano_folder)]}
    assert list((tmp_path / "texdiff").iterdir()) == list(folders)
    folder = folders.pop()
    assert (folder / "model_index.json").exists()
    plain = tmp_path / "plain"
    plain.write_text("")
    modes = {path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()}
    assert modes == {plain.stat().st_mode & 0o777}
    assert folder.stat().st_mode == (tmp_path / "texdiff").stat().st_mode


def test_cache_that_is_a_file(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(InputError, match="XDG_CACHE_HOME"):
        nano_folder()


@pytest.mark.parametrize(("colour", "channel"), [("red", 0), ("green", 1), ("blue", 2)])
def test_it_has_learned_colours(pipeline, colour, channel):
    draw = torch.Generator().manual_seed(0)
    picture = pipeline(f"{colour} tiles", num_inference_steps=12, generator=draw, output_type="np").images[0]
    assert picture.mean((0, 1)).argmax() == channel


def test_it_has_learned_to_rebuild(pipeline):
    rng = np.random.default_rng(123)
    picture = paint(random_pattern(rng), 256, rng)
    x = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        rebuilt = pipeline.vae.decode(pipeline.vae.encode(x).latent_dist.mean).sample
    assert (rebuilt - x).square().mean() < 0.04  # 20 dB
