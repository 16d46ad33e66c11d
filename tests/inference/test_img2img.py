"""Redrawing an atlas: its void is left alone, and does not influence the islands."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from PIL import Image

from texdiff.inference.generate import generate
from texdiff.inference.img2img import InitialImage
from texdiff.inference.sampler import Sampling, load_pipeline
from texdiff.inference.target import read_target
from texdiff.uv.coverage import coverage_mask

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture
def old_atlas(tmp_path: Path) -> np.ndarray:
    """A coloured atlas, not square and not of the model's size; `old.png` is this."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 12, 3), dtype=np.uint8))
    return np.asarray(coarse.resize((96, 48), Image.Resampling.BICUBIC))


def test_img2img_leaves_the_void_alone(base: Path, four_squares_obj: Path, old_atlas: np.ndarray) -> None:
    folder = four_squares_obj.parent
    Image.fromarray(old_atlas).save(folder / "old.png")
    mask = coverage_mask(read_target(four_squares_obj).triangles, old_atlas.shape[:2], mode="conservative")
    assert 0.1 < mask.mean() < 0.9
    shown = {}
    for strength in (0.5, 1.0):
        (file,) = generate(
            model=str(base),
            prompt="a crate",
            output=folder / "new.png",
            mesh=four_squares_obj,
            strength=strength,
            num_inference_steps=4,
        )
        shown[strength] = np.asarray(Image.open(file))
        assert shown[strength].shape == old_atlas.shape
        np.testing.assert_array_equal(shown[strength][~mask], old_atlas[~mask])
        assert (shown[strength][mask] != old_atlas[mask]).any()
    assert (shown[0.5] != shown[1.0]).any()

    # On a mesh the void is filled from what is drawn, so nothing of the old atlas is left in it.
    (file,) = generate(
        model=str(base),
        prompt="a crate",
        output=folder / "new.glb",
        mesh=four_squares_obj,
        strength=0.5,
        num_inference_steps=4,
    )
    (part,) = trimesh.load_scene(file, process=False).geometry.values()
    worn = np.asarray(part.visual.material.baseColorTexture)
    np.testing.assert_array_equal(worn[mask], shown[0.5][mask])
    assert (worn[~mask] != old_atlas[~mask]).any(axis=1).mean() > 0.9


def test_the_void_does_not_influence_the_islands(base: Path, four_squares_obj: Path, old_atlas: np.ndarray) -> None:
    """Two atlases that differ in the void alone, and in texels that lie in it for the most part, come out the same."""
    mask = coverage_mask(read_target(four_squares_obj).triangles, old_atlas.shape[:2], mode="center")
    inside = []
    for number, void in enumerate([(255, 0, 255), (0, 0, 0)]):
        image = four_squares_obj.parent / f"init{number}.png"
        Image.fromarray(np.where(mask[..., None], old_atlas, np.uint8(void))).save(image)
        settings: dict[str, Any] = {"mesh": four_squares_obj, "init_image": image, "num_inference_steps": 4}
        (file,) = generate(
            model=str(base), prompt="a crate", output=image.with_name("out.png"), strength=0.5, **settings
        )
        inside.append(np.asarray(Image.open(file))[mask])
    np.testing.assert_array_equal(*inside)


def test_little_strength_changes_little() -> None:
    """With the trained small base, whose VAE can give back what it was given."""
    ramp = np.linspace(60, 180, 64)
    texture = (ramp[:, None, None] * np.array([1.0, 0.8, 0.6])).repeat(64, axis=1).astype(np.uint8)
    whole = np.ones((64, 64), bool)
    initial = InitialImage(texture=texture, covered=whole, touched=whole)
    nano = load_pipeline("nano")
    errors = []
    for strength in (0.25, 1.0):
        (drawn,) = initial.img2img(nano, ["wood"], [0], strength, Sampling(num_inference_steps=8, guidance_scale=1))
        errors.append(np.abs(drawn.astype(float) - texture).mean())
    assert errors[0] < 0.6 * errors[1], errors
