"""Inpainting bases: what their denoiser gets is what diffusers' pipelines give it."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from texdiff.errors import InputError
from texdiff.models.family import Conditioning, load_family
from texdiff.models.inpainting import inpainting_inputs
from texdiff.uv.hiding import Hiding, known_pixels

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(params=["base_inpainting", pytest.param("base_inpainting_xl", marks=pytest.mark.slow)])
def folder(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


def a_texture() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels of what is known [64, 64, 3], the mask, and what is hidden, which is not whole cells."""
    texture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    covered, hidden = np.zeros((2, 64, 64), bool)
    covered[3:50, 5:60], hidden[3:29, 5:60] = True, True
    return known_pixels(texture, covered, hidden), covered, hidden


def inputs_of(model: Any, run: Any) -> list[dict[str, Any]]:
    """What the model is given while `run` runs, by name."""
    seen: list[dict[str, Any]] = []

    def note(module: Any, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        seen.append(dict(zip(("sample", "timestep"), positional, strict=False)) | named)

    handle = model.register_forward_pre_hook(note, with_kwargs=True)
    run()
    handle.remove()
    return seen


def test_the_pipeline_gives_its_denoiser_what_the_trainer_does(folder: Path) -> None:
    """Of a picture in stock form: with the masked texels in it, and a mask."""
    family = load_family(str(folder))
    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    pixels, _, hidden = a_texture()
    picture = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    seen = {}
    for name, inputs in {
        "stock": {
            "image": torch.where(torch.from_numpy(hidden), torch.rand_like(picture), picture / 2 + 0.5),
            "mask_image": torch.from_numpy(hidden.astype(np.float32))[None, None],
            "strength": 1.0,
        },
        "own": inpainting_inputs(pipeline, pixels, hidden),
    }.items():

        def draw(inputs: dict[str, Any] = inputs) -> None:
            generator = torch.Generator().manual_seed(2)
            size = {"height": 64, "width": 64, "num_inference_steps": 1, "guidance_scale": 1.0}
            pipeline("a crate", **size, latents=noise, generator=generator, output_type="latent", **inputs)

        (seen[name],) = inputs_of(pipeline.unet, draw)
    mean, std = family.encode_images(picture)
    known = torch.cat([torch.from_numpy(hidden[None, None, ::8, ::8]).float(), mean], dim=1)
    conditioning = Conditioning(prompt=family.encode_prompts(["a crate"]), known=known)
    t = seen["own"]["timestep"].reshape(1)
    ours = family.denoiser_inputs(seen["own"]["sample"][:, :4], t, conditioning)
    assert torch.allclose(ours["sample"], seen["own"]["sample"], atol=1e-6)
    assert torch.equal(seen["stock"]["sample"][:, :5], seen["own"]["sample"][:, :5])
    # The stock pipeline draws from the posterior of which ours takes the mean.
    drawn = (seen["stock"]["sample"][:, 5:] / family.scaling_factor - mean) / std
    assert float(drawn.abs().max()) < 5
    assert float(drawn.std()) == pytest.approx(1, abs=0.2)
    with torch.no_grad():
        (stock,) = pipeline.unet(**seen["own"])
        predicted = family.predict(family.denoiser, seen["own"]["sample"][:, :4], t, conditioning)
    difference = (predicted - stock).abs().max()
    print(f"greatest difference {difference:.2g}")
    assert difference < 1e-5


def test_some_islands_are_hidden_by_default_and_other_bases_hide_nothing(
    base_inpainting: Path, base: Path, base_xl: Path
) -> None:
    assert load_family(str(base_inpainting)).hiding == Hiding(mode="complete", variants=4)
    assert load_family(str(base_inpainting), hiding=Hiding(mode="layout")).hiding == Hiding(mode="layout")
    for plain in (base, base_xl):
        assert load_family(str(plain)).hiding is None
        with pytest.raises(InputError, match=r"^inpaint\.mode: .* is no inpainting base; leave"):
            load_family(str(plain), hiding=Hiding())


def test_a_unet_that_does_not_fit_its_pipeline_is_named(base: Path, base_inpainting: Path, tmp_path: Path) -> None:
    for source, kind, channels in (
        (base, "StableDiffusionInpaintPipeline", 4),
        (base_inpainting, "StableDiffusionPipeline", 9),
    ):
        folder = shutil.copytree(source, tmp_path / kind)
        index = folder / "model_index.json"
        index.write_text(json.dumps(json.loads(index.read_text("utf-8")) | {"_class_name": kind}), "utf-8")
        with pytest.raises(InputError, match=f"its U-Net takes {channels} channels, which does not fit a {kind}"):
            load_family(str(folder))


def test_a_layout_net_is_refused(base_inpainting: Path) -> None:
    with pytest.raises(InputError, match=r"^layout\.maps must be none with the inpainting base "):
        load_family(str(base_inpainting)).layout_net_outline()
