"""`texdiff generate --complete`: what is missing is drawn, and nothing else changes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from texdiff import cli, generate
from texdiff.errors import InputError
from texdiff.inference.complete import nothing_known, read_partial
from texdiff.inference.img2img import scale_image
from texdiff.inference.retexture import read_target
from texdiff.inference.sampler import load_pipeline
from texdiff.models.stable_diffusion import quick_sampler
from texdiff.uv.coverage import coverage_mask

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SAMPLING: dict[str, Any] = {"prompt": "a crate", "num_inference_steps": 2}


@pytest.fixture
def atlas(tmp_path: Path) -> Path:
    """Noise of 96 x 96 texels, whose lower half is missing."""
    texture = np.random.default_rng(0).integers(0, 256, (96, 96, 4), dtype=np.uint8)
    texture[..., 3] = 255
    texture[48:, :, 3] = 0
    Image.fromarray(texture).save(tmp_path / "atlas.png")
    return tmp_path / "atlas.png"


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def test_what_is_there_stays_to_the_bit(base_inpainting: Path, atlas: Path, tmp_path: Path) -> None:
    output = tmp_path / "full.png"
    generate(model=str(base_inpainting), complete=atlas, output=output, **SAMPLING)
    before, after = pixels(atlas), pixels(output)
    assert np.array_equal(after[:48], before[:48])
    assert (after[48:] != before[48:]).mean() > 0.9


@pytest.mark.slow
def test_on_a_mesh_what_its_uv_map_uses_is_drawn_and_the_void_filled(
    base_inpainting_xl: Path, atlas: Path, four_squares_obj: Path, tmp_path: Path
) -> None:
    output = tmp_path / "full.png"
    generate(model=str(base_inpainting_xl), complete=atlas, mesh=four_squares_obj, output=output, **SAMPLING)
    before, after = pixels(atlas), pixels(output)
    target = read_target(four_squares_obj)
    touched = coverage_mask(target.triangles, (96, 96), mode="conservative")
    there = np.zeros((96, 96), bool)
    there[:48] = True
    assert np.array_equal(after[touched & there], before[touched & there])
    assert (after[touched & ~there] != before[touched & ~there]).mean() > 0.9
    partial = read_partial(atlas, target)
    assert np.array_equal(partial.missing, touched & ~there)
    known, hidden = partial.shown((64, 64))
    assert not known[hidden].any()
    assert not (hidden & ~coverage_mask(target.triangles, (64, 64), mode="conservative")).any()
    assert hidden[33:].sum() == hidden.sum() > 100


def test_the_stock_pipeline_draws_the_same(base_inpainting: Path, atlas: Path, tmp_path: Path) -> None:
    """Of the atlas at the base's own size, with its missing texels masked."""
    generate(model=str(base_inpainting), complete=atlas, output=tmp_path / "full.png", seed=5, **SAMPLING)
    known, hidden = read_partial(atlas, None).shown((64, 64))
    pipeline = DiffusionPipeline.from_pretrained(base_inpainting)
    pipeline.scheduler = quick_sampler(pipeline.scheduler)
    picture = torch.from_numpy(known).permute(2, 0, 1)[None]
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    latents = pipeline.vae.encode(picture).latent_dist.mean * pipeline.vae.config.scaling_factor
    drawn = pipeline(
        **SAMPLING,
        image=picture / 2 + 0.5,
        mask_image=Image.fromarray(hidden.astype(np.uint8) * 255),
        masked_image_latents=latents.detach(),
        height=64,
        width=64,
        latents=noise,
    ).images[0]
    expected = scale_image(np.asarray(drawn), (96, 96)).astype(int)
    assert np.abs(pixels(tmp_path / "full.png").astype(int) - expected)[48:].max() <= 1


def test_without_an_atlas_everything_is_missing(base_inpainting: Path, four_squares_obj: Path, tmp_path: Path) -> None:
    target = read_target(four_squares_obj)
    known, hidden = nothing_known(target, (64, 64)).shown((64, 64))
    assert not known.any()
    assert np.array_equal(hidden, coverage_mask(target.triangles, (64, 64)))
    assert nothing_known(None, (64, 64)).shown((64, 64))[1].all()
    output = tmp_path / "new.glb"
    generate(model=str(base_inpainting), mesh=four_squares_obj, output=output, **SAMPLING)
    assert output.stat().st_size > 1000


def test_what_cannot_be_completed_is_said_in_one_line(
    base: Path,
    base_inpainting: Path,
    atlas: Path,
    four_squares_obj: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    opaque, full, upper = tmp_path / "opaque.png", tmp_path / "full.png", tmp_path / "void.png"
    Image.open(atlas).convert("RGB").save(opaque)
    image = Image.open(atlas)
    image.putalpha(255)
    image.save(full)
    clear = np.asarray(image).copy()
    clear[:4, :4, 3] = 0  # where the squares are not
    Image.fromarray(clear).save(upper)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"complete": atlas, "init_image": atlas}, "--complete: not with --init_image, --strength or --size"),
        ({"complete": atlas, "size": 96}, "--complete: not with"),
        ({"complete": tmp_path / "none.png"}, f"--complete {tmp_path / 'none.png'}: does not exist"),
        ({"complete": opaque}, f"--complete {opaque}: has no transparent texels; make what is missing transparent"),
        ({"complete": full}, f"--complete {full}: no texel is transparent, so nothing is missing"),
        ({"complete": upper, "mesh": four_squares_obj}, "no texel is transparent, where the mesh's UV map uses it"),
        ({"complete": atlas, "model": base}, f"--complete: needs an inpainting base, which {base} is not"),
        ({"init_image": opaque}, f"{base_inpainting}: is an inpainting base; give --complete, not --init_image"),
    ]
    for given, said in cases:
        flags = {"model": base_inpainting, "prompt": "a crate", "output": tmp_path / "out.png"} | given
        words = [str(word) for key, value in flags.items() for word in (f"--{key}", value)]
        assert cli.main(["generate", *words]) == 2
        error = capsys.readouterr().err.strip()
        assert said in error
        assert "\n" not in error
    assert not (tmp_path / "out.png").exists()
    with pytest.raises(InputError, match="is an inpainting base, which draws to what it is shown"):
        load_pipeline(str(base_inpainting))
