"""Stable Diffusion XL's methods, each against what diffusers' own pipeline does."""

import json
import shutil
from pathlib import Path
from typing import Any

import nano_xl
import pytest
import torch
from diffusers import StableDiffusionXLPipeline

from texdiff.errors import InputError
from texdiff.models.base import resolve_base
from texdiff.models.family import Conditioning, load_family
from texdiff.models.stable_diffusion import mean_latents, quick_sampler

# diffusers' sampler hands a tensor to NumPy 2 in the old way.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

PROMPTS = ["a rusty crate", "word " * 200]


@pytest.fixture(scope="module")
def family(base_xl: Path) -> Any:
    return load_family(str(base_xl))


@pytest.fixture(scope="module")
def pipeline(base_xl: Path) -> Any:
    return StableDiffusionXLPipeline.from_pretrained(base_xl)


def test_prompts_are_the_pipelines(family: Any, pipeline: Any) -> None:
    text, _, pooled, _ = pipeline.encode_prompt(PROMPTS, device="cpu", do_classifier_free_guidance=False)
    prompt = family.encode_prompts(PROMPTS)
    assert prompt["text"].shape == (2, 77, 16 + 24)
    assert prompt["pooled"].shape == (2, 1, 20)
    torch.testing.assert_close(prompt["text"], text, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(prompt["pooled"][:, 0], pooled, rtol=1e-5, atol=1e-6)
    assert family.base.tokenizer_2.pad_token_id == 0


def test_long_prompts_are_read_in_chunks_in_training_and_in_pipelines(base_xl: Path, pipeline: Any) -> None:
    long = "crate " * 100
    family = load_family(str(base_xl), max_token_length=150)
    prompt = family.encode_prompts([long, "a crate", ""])
    assert prompt["text"].shape == (3, 2 * 77, 40)
    chunks = ["crate " * 75, "crate " * 25]
    text, _, pooled, _ = pipeline.encode_prompt(chunks, device="cpu", do_classifier_free_guidance=False)
    torch.testing.assert_close(prompt["text"][0], text.flatten(0, 1), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(prompt["pooled"][0], pooled[:1], rtol=1e-5, atol=1e-6)
    assert torch.equal(prompt["text"][1, :77], prompt["text"][1, 77:])
    assert (prompt["text"][2] == 0).all()

    own = family.pipeline(family.denoiser)
    found = own.encode_prompt(
        prompt=[long, "a crate"], device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=True
    )
    for tensor, expected in zip(found, (prompt["text"][:2], prompt["text"][[2, 2]]), strict=False):
        torch.testing.assert_close(tensor, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[2], prompt["pooled"][:2, 0], rtol=1e-5, atol=1e-6)
    assert (found[3] == 0).all()
    with pytest.raises(InputError, match=r"model\.clip_skip must be null for Stable Diffusion XL \(got 1\)"):
        load_family(str(base_xl), clip_skip=1)


@pytest.mark.parametrize("zeros", [True, False])
def test_no_text_is_what_guidance_goes_away_from(tmp_path: Path, zeros: bool) -> None:
    folder = nano_xl.build(tmp_path, force_zeros_for_empty_prompt=zeros)
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder)
    text, no_text, pooled, no_pooled = pipeline.encode_prompt("a crate", device="cpu")
    prompt = load_family(str(folder)).encode_prompts(["", "a crate"])
    torch.testing.assert_close(prompt["text"], torch.cat([no_text, text]), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(prompt["pooled"][:, 0], torch.cat([no_pooled, pooled]), rtol=1e-5, atol=1e-6)
    assert (prompt["text"][0] == 0).all() == zeros


def test_what_is_cached_follows_how_an_absent_text_is_treated(family: Any, base_xl: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(base_xl, tmp_path / "copy"))
    index = json.loads((folder / "model_index.json").read_text("utf-8"))
    (folder / "model_index.json").write_text(json.dumps(index | {"force_zeros_for_empty_prompt": False}), "utf-8")
    other = load_family(str(folder))
    assert other.encoder_content("prompts") != family.encoder_content("prompts")
    assert other.encoder_content("images") == family.encoder_content("images")
    before = other.encoder_content("prompts")
    with (folder / "tokenizer_2/merges.txt").open("a") as file:
        file.write("\n")
    assert other.encoder_content("prompts") != before


def test_the_denoiser_gets_what_the_pipeline_gives_it(family: Any, pipeline: Any, monkeypatch: Any) -> None:
    """The same text, projection and sizes, for a picture that is not square."""
    calls: list[dict[str, Any]] = []
    forward = pipeline.unet.forward
    monkeypatch.setattr(
        pipeline.unet,
        "forward",
        lambda x, t, **more: calls.append({"sample": x, "timestep": t} | more) or forward(x, t, **more),
    )
    noisy = torch.randn(1, 4, 8, 16, generator=torch.Generator().manual_seed(0))
    pipeline.set_progress_bar_config(disable=True)
    pipeline("a rusty crate", height=64, width=128, num_inference_steps=1, guidance_scale=1.0, latents=noisy)
    (call,) = calls
    conditioning = Conditioning(prompt=family.encode_prompts(["a rusty crate"]))
    inputs = family.denoiser_inputs(call["sample"], call["timestep"], conditioning)
    added = inputs["added_cond_kwargs"]
    torch.testing.assert_close(inputs["encoder_hidden_states"], call["encoder_hidden_states"])
    torch.testing.assert_close(added["text_embeds"], call["added_cond_kwargs"]["text_embeds"])
    assert added["time_ids"].tolist() == call["added_cond_kwargs"]["time_ids"].tolist() == [[64, 128, 0, 0, 64, 128]]
    assert not added["time_ids"].is_floating_point()
    with torch.no_grad():
        predicted = family.predict(family.denoiser, call["sample"], call["timestep"], conditioning)
        torch.testing.assert_close(predicted, forward(call.pop("sample"), call.pop("timestep"), **call)[0])


def test_encoders_are_moved_together(family: Any) -> None:
    with family.encoders_on(torch.device("cpu")):
        family.encode_prompts(["a"])
    loaded = set(family.base.__dict__)
    assert {"vae", "text_encoder", "text_encoder_2"} <= loaded
    assert not any(
        p.requires_grad for part in ("vae", "text_encoder_2") for p in getattr(family.base, part).parameters()
    )


def test_latents_are_scaled_as_the_vae_says_and_never_computed_in_float16(family: Any, pipeline: Any) -> None:
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mean, _ = family.encode_images(pixels)
    torch.testing.assert_close(family.latents(mean), 0.13025 * mean)
    half = pipeline.vae.half()
    torch.testing.assert_close(mean_latents(half, pixels).float(), 0.13025 * mean, rtol=1e-2, atol=1e-3)
    assert half.dtype == torch.float16


def test_the_last_step_is_eulers(pipeline: Any) -> None:
    sampler = quick_sampler(pipeline.scheduler)
    assert sampler.config.euler_at_final
    assert sampler.config.timestep_spacing == "leading"


def test_the_refiner_is_refused_by_name(base_xl: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(base_xl, tmp_path / "refiner"))
    index = json.loads((folder / "model_index.json").read_text("utf-8"))
    index |= {"_class_name": "StableDiffusionXLImg2ImgPipeline", "text_encoder": [None, None]}
    (folder / "model_index.json").write_text(json.dumps(index), "utf-8")
    with pytest.raises(InputError, match=r"is SDXL's refiner, .*; name the base") as refused:
        resolve_base(str(folder))
    assert len(str(refused.value).splitlines()) == 1
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "KandinskyPipeline"}), "utf-8")
    with pytest.raises(InputError, match="is a KandinskyPipeline; only Stable Diffusion 1, 2 and XL"):
        resolve_base(str(folder))


def test_latents_that_are_shifted_are_refused(base_xl: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(base_xl, tmp_path / "other"))
    config = json.loads((folder / "vae/config.json").read_text("utf-8"))
    (folder / "vae/config.json").write_text(json.dumps(config | {"latents_mean": [0.1, 0, 0, 0]}), "utf-8")
    with pytest.raises(InputError, match=r"shifts its latents \(latents_mean"):
        load_family(str(folder))


def test_the_denoiser_is_told_where_in_an_atlas_a_window_is(family: Any) -> None:
    """As diffusers' pipeline says it of `original_size`, `crops_coords_top_left` and `target_size`."""
    prompt = family.encode_prompts(["a rusty crate"])
    sizes = torch.tensor([[2048, 2048, 512, 64, 64, 64]])
    noisy = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    conditioning = Conditioning(prompt=prompt, sizes=sizes).expand(4)
    t = torch.tensor([500] * 4)
    added = family.denoiser_inputs(noisy, t, conditioning)["added_cond_kwargs"]
    assert added["time_ids"].tolist() == sizes.tolist() * 4
    assert len(family.denoiser_inputs(noisy[1:3], t[1:3], conditioning[1:3])["added_cond_kwargs"]["time_ids"]) == 2
    with torch.no_grad():
        there = family.predict(family.denoiser, noisy, t, conditioning)
        whole = family.predict(family.denoiser, noisy, t, Conditioning(prompt=prompt).expand(4))
    assert not torch.equal(there, whole)
