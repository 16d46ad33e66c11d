"""Textures larger than the base draws at once."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from texdiff import cli
from texdiff.errors import InputError
from texdiff.inference.generate import generate
from texdiff.inference.img2img import from_latents, scale_image
from texdiff.inference.large import Refinement, composition_size, parse_size
from texdiff.inference.layout_net import Layout
from texdiff.inference.sampler import Sampling, load_pipeline, sample, sample_batch
from texdiff.inference.target import read_target
from texdiff.inference.tiles import decode_tiled, encode_tiled
from texdiff.models.layout_net import Maps, make_layout_net
from texdiff.models.stable_diffusion import mean_latents
from texdiff.uv.coverage import coverage_mask

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def test_one_window_is_diffusers_own_img2img(pipeline: Any, four_squares_obj: Path) -> None:
    """Under a layout net too, which is heard in a part of the steps."""
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    net = make_layout_net(pipeline.unet, 8, Maps())
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.03 * torch.randn(parameter.shape, generator=generator)
    target = read_target(four_squares_obj)
    layout = Layout(net=net, scale=0.8, start=0.2, end=0.9)
    sampling = Sampling(num_inference_steps=6, guidance_scale=3.0)
    drawn = []
    for under in (None, layout.on(target, (64, 64))):
        control = under and layout.in_windows(target, (64, 64), 8)
        refinement = Refinement(covered=np.ones((64, 64), bool), strength=0.7, control=control)
        (found,) = refinement.refine(pipeline, [image], ["a crate"], [5], sampling)
        redrawing = from_latents(pipeline if under is None else under.around(pipeline))
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1
        inputs = {"image": mean_latents(pipeline.vae, pixels), "strength": 0.7}
        inputs |= {} if under is None else under.inputs(redrawing)
        (expected,) = sample_batch(redrawing, ["a crate"], [5], *sampling, **inputs)
        assert np.abs(found.astype(int) - expected).max() <= 1
        drawn.append(found)
    assert (drawn[0] != drawn[1]).mean() > 0.5


@pytest.mark.slow
def test_an_image_comes_back_out_of_tiles_as_it_does_in_one_piece() -> None:
    """Tiles see other means than the image, so latents differ, in encoder and decoder alike."""
    vae = load_pipeline("nano").vae
    rows, columns = np.mgrid[:320, :448] / 448
    image = np.stack([200 * rows, 40 + 150 * columns, 120 + 80 * np.sin(20 * rows * columns)], 2).astype(np.uint8)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1
    latents, tiled = mean_latents(vae, pixels), encode_tiled(vae, image, 32)
    assert tiled.shape == latents.shape == (1, 4, 40, 56)
    wanted = torch.zeros(40, 56, dtype=torch.bool)
    wanted[:30, :22] = True
    shown = decode_tiled(vae, tiled, 32, wanted)
    assert (shown[:, 256:] == 128).all()  # of the tiles there none was wanted
    error, at_once = (
        np.abs(found.astype(float) - image)[:240, :176].mean() for found in (shown, decoded(vae, latents))
    )
    assert error < 1.2 * at_once
    one = encode_tiled(vae, image[:256, :256], 32)
    torch.testing.assert_close(one, mean_latents(vae, pixels[..., :256, :256]))
    assert np.abs(decode_tiled(vae, one, 32, wanted[:32, :32]) - decoded(vae, one)).max() <= 0.51


def decoded(vae: Any, latents: torch.Tensor) -> np.ndarray:
    """By the model itself, [H, W, 3] from 0 to 255."""
    with torch.no_grad():
        pixels = vae.decode(latents / vae.config.scaling_factor).sample[0].permute(1, 2, 0)
    return (pixels.clamp(-1, 1) + 1).numpy() * 127.5


@pytest.mark.slow
def test_on_the_command_line(
    base: Path, four_squares_obj: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wider than high, of a size that is no multiple of a cell, two seeds: each as it is alone, and the void filled."""
    arguments = ["generate", "--model", str(base), "--mesh", str(four_squares_obj), "--prompt", "a crate"]
    arguments += ["--num_inference_steps", "4", "--size", "180x90", "--output", str(tmp_path / "x.png")]
    assert cli.main([*arguments, "--seed", "1", "2"]) == 0
    said = capsys.readouterr()
    assert "180x90 texels: composed at 88x48, then refined in windows of 64 texels" in said.out.splitlines()
    counted = re.findall(r"refining: 100%.* (\d+)/(\d+) ", said.err)
    assert len(counted) == 1
    assert counted[0][0] == counted[0][1]
    shown = [np.asarray(Image.open(tmp_path / f"x-0{number}.png")) for number in range(2)]
    assert shown[0].shape == (90, 180, 3)
    assert (shown[0] != shown[1]).mean() > 0.5
    assert cli.main([*arguments, "--seed", "2"]) == 0
    alone = np.asarray(Image.open(tmp_path / "x.png")).astype(int)
    assert np.abs(alone - shown[1]).max() <= 2  # a batch rounds otherwise

    assert cli.main([*arguments, "--seed", "2", "--refine_strength", "0", "--seams", "keep"]) == 0
    target = read_target(four_squares_obj)
    mask = coverage_mask(target.triangles, (90, 180), mode="conservative")
    (composed,) = sample_batch(load_pipeline(str(base)), ["a crate"], [2], 4, 7.5, size=(48, 88))
    found = np.asarray(Image.open(tmp_path / "x.png"))
    np.testing.assert_array_equal(found[mask], scale_image(composed, (90, 180))[mask])
    assert np.abs(found[mask].astype(int) - alone[mask]).mean() > 2


@pytest.mark.slow
def test_smaller_and_own_sizes_are_drawn_at_once(base: Path, loaded: Any, tmp_path: Path) -> None:
    own = sample(loaded, "a crate", 0, 2, 7.5)
    for size, shape in ((64, (64, 64)), ("32x48", (48, 32))):
        (file,) = generate(
            model=str(base), prompt="a crate", output=tmp_path / "x.png", size=size, num_inference_steps=2
        )
        shown = np.asarray(Image.open(file))
        assert shown.shape == (*shape, 3)
        if size == 64:
            np.testing.assert_array_equal(shown, own)


def test_an_image_is_redrawn_at_its_texels_own_size(base: Path, four_squares_obj: Path, tmp_path: Path) -> None:
    """What the UV map leaves out stays, and the shape of what it uses is still to be seen."""
    generator = np.random.default_rng(0)
    coarse = Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    atlas = np.asarray(coarse.resize((160, 160), Image.Resampling.BICUBIC))
    Image.fromarray(atlas).save(four_squares_obj.parent / "old.png")
    settings: dict[str, Any] = {"mesh": four_squares_obj, "num_inference_steps": 4, "strength": 0.5, "size": 160}
    (file,) = generate(model=str(base), prompt="a crate", output=tmp_path / "x.png", seams="keep", **settings)
    shown = np.asarray(Image.open(file))
    mask = coverage_mask(read_target(four_squares_obj).triangles, (160, 160), mode="conservative")
    np.testing.assert_array_equal(shown[~mask], atlas[~mask])
    assert (shown[mask] != atlas[mask]).mean() > 0.9


def test_sdxl_is_told_its_own_size_in_each_window(base_xl: Path, tmp_path: Path, monkeypatch: Any) -> None:
    from diffusers import UNet2DConditionModel

    told: list[list[float]] = []
    forward = UNet2DConditionModel.forward

    def listen(self: Any, *arguments: Any, **more: Any) -> Any:
        told.extend(more["added_cond_kwargs"]["time_ids"].tolist())
        return forward(self, *arguments, **more)

    monkeypatch.setattr(UNet2DConditionModel, "forward", listen)
    (file,) = generate(model=str(base_xl), prompt="a crate", output=tmp_path / "x.png", size=100, num_inference_steps=2)
    assert np.asarray(Image.open(file)).shape == (100, 100, 3)
    assert len(told) > 8
    assert all(ids == [64, 64, 0, 0, 64, 64] for ids in told)


def test_sizes() -> None:
    assert parse_size(2048) == parse_size("2048") == (2048, 2048)
    assert parse_size("2048x1024") == (1024, 2048)
    for wrong in (0, "x", "12x", "-5", 20000, "2048x1024x3", ""):
        with pytest.raises(InputError, match="--size must be"):
            parse_size(wrong)


def test_a_composition_has_the_bases_area_and_much_the_same_shape(loaded: Any) -> None:
    assert composition_size(loaded, (2048, 2048)) == (64, 64)
    assert composition_size(loaded, (1024, 4096)) == (32, 128)
    assert composition_size(loaded, (8, 16384)) == (8, 2896)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"size": "big"}, "--size must be"),
        ({"size": 128, "refine_strength": 1.5}, "--refine_strength must be"),
        ({"size": 128, "refine_strength": 0.1, "num_inference_steps": 4}, "leaves none of 4 steps"),
        ({"refine_strength": 0.5}, "has no effect without --size"),
        ({"refine_strength": 0.5, "size": 128, "init_image": "x.png"}, "an image is redrawn at --strength"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_loaded(settings: dict[str, Any], what: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=what):
        generate(model="none there", prompt="a crate", output=tmp_path / "x.png", **settings)
