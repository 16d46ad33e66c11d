"""The pictures say what the captions say."""

import numpy as np
import pytest

from texdiff.demo.materials import MATERIALS
from texdiff.demo.palette import COLOURS
from texdiff.demo.patterns import SCALES, Pattern, caption, paint, random_pattern


def test_there_is_enough_to_choose_from():
    assert len(MATERIALS) >= 10
    assert len(COLOURS) >= 8


def test_captions_are_one_to_one_with_looks():
    patterns = [
        Pattern(material=m, colour=c, scale=s, worn=w)
        for m in MATERIALS
        for c in COLOURS
        for s in SCALES
        for w in (False, True)
    ]
    assert len({caption(pattern) for pattern in patterns}) == len(patterns)
    assert caption(Pattern(material="brick", colour="red", scale="large", worn=True)) == "large worn red brick"


def test_random_patterns_keep_to_their_family():
    rng = np.random.default_rng(0)
    assert {random_pattern(rng).material for _ in range(500)} == MATERIALS.keys()


@pytest.mark.parametrize("material", MATERIALS)
def test_paint_is_a_function_of_look_size_and_seed(material):
    pattern = Pattern(material=material, colour="blue", worn=True)
    first = paint(pattern, 128, np.random.default_rng(3))
    assert first.shape == (128, 128, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, paint(pattern, 128, np.random.default_rng(3)))
    assert not np.array_equal(first, paint(pattern, 128, np.random.default_rng(4)))


@pytest.mark.parametrize("material", MATERIALS)
def test_the_nearest_named_colour_is_the_one_in_the_caption(material):
    names = list(COLOURS)
    table = np.array([COLOURS[name] for name in names])
    right = 0
    for i, name in enumerate(names):
        picture = paint(Pattern(material=material, colour=name), 128, np.random.default_rng(i)) / 255
        votes = np.abs(picture.reshape(-1, 1, 3) - table).sum(-1).argmin(-1)
        right += int(np.bincount(votes, minlength=len(names)).argmax() == i)
    assert right >= 9


def test_large_is_coarser_than_small():
    def crossings(scale: str) -> int:
        rows = paint(Pattern(material="tiles", colour="blue", scale=scale), 256, np.random.default_rng(0)).mean(-1)
        bright = rows > (rows.max() + rows.mean()) / 2
        return int(np.abs(np.diff(bright.astype(int), axis=1)).sum())

    assert crossings("small") > 1.3 * crossings("") > 1.6 * crossings("large")
