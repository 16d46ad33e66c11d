"""kohya's dataset settings are followed, or refused by their key; never followed in part."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from texdiff.data.prepare.asset import Asset
from texdiff.data.prepare.sources.kohya_config import read_kohya_config
from texdiff.errors import InputError

Draw = Callable[..., np.ndarray]


@pytest.fixture
def folder(draw: Draw, islands_mask: Draw, tmp_path: Path) -> Path:
    """Two images with captions of both endings, and masks with captions beside them."""
    for number, name in enumerate(("a", "b")):
        for kind, pixels in (("images", draw(number)), ("cond", islands_mask().astype(np.uint8) * 255)):
            (tmp_path / kind).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / kind / f"{name}.png")
            (tmp_path / kind / f"{name}.txt").write_text(f"old {name}")
        (tmp_path / "images" / f"{name}.caption").write_text(f"new {name}")
    return tmp_path


def read(folder: Path, subset: str = "", general: str = "", more: str = "") -> list[Asset]:
    text = f"[general]\n{general}\n[[datasets]]\nresolution = 512\n[[datasets.subsets]]\n"
    text += f'image_dir = "images"\nconditioning_data_dir = "cond"\n{subset}\n{more}'
    (folder / "set.toml").write_text(text, "utf-8")
    return read_kohya_config(folder / "set.toml")


def captions(assets: list[Asset]) -> list[tuple[str, ...]]:
    return [asset.captions for asset in assets]


def test_a_text_beside_a_mask_is_not_its_mask(folder: Path) -> None:
    assert [asset.mask for asset in read(folder)] == [folder / "cond" / "a.png", folder / "cond" / "b.png"]


@pytest.mark.parametrize(
    ("settings", "right"),
    [
        ('caption_extension = ".txt"', ["old a", "old b"]),
        ('caption_extension = ".caption"', ["new a", "new b"]),
        ('caption_prefix = "uvtex, "', ["uvtex, new a", "uvtex, new b"]),
        ('caption_prefix = "uv"\ncaption_suffix = "map"', ["uv new a map", "uv new b map"]),
        ('caption_extension = ".tags"\nclass_tokens = "crate"\ncaption_prefix = "uv"', ["uv crate", "uv crate"]),
        ("num_repeats = 10\nshuffle_caption = false\nis_reg = false\nflip_aug = false", ["new a", "new b"]),
    ],
)
def test_settings_of_captions_are_followed_wherever_they_stand(folder: Path, settings: str, right: list[str]) -> None:
    assert captions(read(folder, subset=settings)) == captions(read(folder, general=settings)) == [(t,) for t in right]


def test_where_no_file_has_the_ending_an_image_has_no_caption(folder: Path) -> None:
    assert all(asset.named for asset in read(folder, 'caption_extension = ".tags"'))


def test_repeats_and_regularisation_are_those_of_the_subset(folder: Path) -> None:
    """And not of the folder's name, which counts where there are no settings."""
    for number in range(3):
        (folder / "7_cups").mkdir(exist_ok=True)
        Image.open(folder / "images/a.png").save(folder / f"7_cups/{number}.png")
    more = '[[datasets.subsets]]\nimage_dir = "7_cups"\nis_reg = true\nnum_repeats = 2\nconditioning_data_dir = ""\n'
    assets = read(folder, "num_repeats = 10", more=more)
    assert [(asset.repeats, asset.regularisation) for asset in assets] == [(10, False)] * 2 + [(2, True)] * 3
    assert [asset.repeats for asset in read(folder, more=more)] == [1] * 2 + [2] * 3


@pytest.mark.parametrize(
    ("subset", "more", "said"),
    [
        ("num_repeats = 0", "", "datasets[0].subsets[0]: num_repeats must be a whole number of at least 1 (got 0)"),
        ("", 'num_repeats = "ten"', "num_repeats must be a whole number of at least 1 (got ten)"),
        ("is_reg = 2", "", "datasets[0].subsets[0]: is_reg must be true or false (got 2)"),
        ("shuffle_caption = true", "", "shuffle_caption = True"),
        (
            "caption_dropout_rate = 0.1",
            "",
            "caption_dropout_rate = 0.1 cannot be followed: a run has",
        ),
        ("flip_aug = true", "", "flip_aug = True"),
        ('metadata_file = "meta.json"', "", "metadata_file = meta.json"),
        ("validation_split = 0.1", "", "validation_split = 0.1"),
        ('caption_extention = ".txt"', "", "caption_extention is not a key"),
        ('caption_extension = "txt"', "", "caption_extension must begin with a dot (got txt)"),
        ("caption_prefix = 3", "", "caption_prefix must be a text"),
        ("", "[dataset]\n", "dataset is not a key"),
    ],
)
def test_what_cannot_be_followed_is_refused_by_its_key(folder: Path, subset: str, more: str, said: str) -> None:
    with pytest.raises(InputError) as refused:
        read(folder, subset, more=more)
    assert said in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_images_without_a_mask_and_masks_without_an_image_are_problems(folder: Path) -> None:
    (folder / "cond" / "b.png").rename(folder / "cond" / "c.png")
    a, b, c = read(folder)
    assert a.problem is None
    assert (b.label, b.problem) == (
        "images/b.png",
        "has no mask of its name in conditioning_data_dir cond; put it there",
    )
    assert c.label == "cond/c.png"
    assert c.problem is not None
    assert "no image of its name" in c.problem
