"""Looks are functions of places on the object, and say in words where their colours are."""

from dataclasses import replace

import numpy as np
import pytest

from texdiff.demo.looks import PARTS, PLACES, Look, accent_share, describe, paint_look, rainbow_look, random_look
from texdiff.demo.palette import COLOURS, RAINBOW
from texdiff.demo.patterns import Pattern
from texdiff.demo.shapes import SHAPES, pack
from texdiff.uv.layout.position import position_map

RED, BLUE = Pattern(material="marble", colour="red"), Pattern(material="marble", colour="blue")


def mesh_of(shape, seed=0):
    rng = np.random.default_rng(seed)
    return pack(SHAPES[shape](rng), rng, gap=0.03)


def votes(atlas, where):
    """The named colour that is nearest to most of the texels."""
    table = np.array(list(COLOURS.values()))
    nearest = np.abs(atlas[where].reshape(-1, 1, 3) / 255 - table).sum(-1).argmin(-1)
    return list(COLOURS)[np.bincount(nearest, minlength=len(table)).argmax()]


@pytest.mark.parametrize(
    ("look", "words"),
    [
        (Look(pattern=RED), "red marble crate"),
        (Look(pattern=RED, accent=BLUE, place="top"), "red marble crate with a blue top"),
        (Look(pattern=RED, accent=BLUE, place="edges"), "red marble crate with blue edges"),
        (Look(pattern=RED, accent=BLUE, place="bands", count=2), "red marble crate with two blue bands"),
        (
            Look(pattern=RED, accent=Pattern(material="cloth", colour="orange"), place="left side"),
            "red marble crate with an orange cloth left side",
        ),
    ],
)
def test_words(look, words):
    assert describe(look, "crate") == words


@pytest.mark.parametrize("place", PLACES)
def test_the_accent_is_where_the_words_say(place):
    mesh = mesh_of("crate")
    atlas, positions = paint_look(Look(pattern=RED, accent=BLUE, place=place), mesh, 256, np.random.default_rng(1))
    covered = positions.any(axis=2)
    share = accent_share(Look(pattern=RED, accent=BLUE, place=place), positions, np.zeros(covered.shape, int))
    assert votes(atlas, covered & (share == 1)) == "blue"
    assert votes(atlas, covered & (share == 0)) == "red"
    x, y, z = np.moveaxis(positions - 0.5, 2, 0)
    along = {"top": y, "bottom": -y, "front": z, "back": -z, "left side": -x, "right side": x}
    if place in along:
        assert along[place][covered & (share == 1)].min() > 0
    assert not atlas[~covered].any()


@pytest.mark.parametrize(("shape", "part"), [(shape, part) for shape, parts in PARTS.items() for part in parts])
def test_parts(shape, part):
    mesh = mesh_of(shape)
    atlas, positions = paint_look(Look(pattern=RED, accent=BLUE, place=part), mesh, 256, np.random.default_rng(1))
    faces = np.isin(mesh.island, list(PARTS[shape][part]))
    everything = mesh.vertices[mesh.faces].reshape(-1, 3)
    bounds = everything.min(axis=0), everything.max(axis=0)
    here = position_map(mesh.uv[mesh.faces[faces]], mesh.vertices[mesh.faces[faces]], (256, 256), bounds).any(axis=2)
    assert votes(atlas, here) == "blue"
    assert votes(atlas, positions.any(axis=2) & ~here) == "red"


def test_colours_meet_at_the_seams():
    """Texels of different islands that show the same place have the same colour, whatever the UV map."""
    look = Look(pattern=RED, accent=BLUE, place="bands", count=3, limit=0.5)
    mesh = mesh_of("crate")
    _, positions = paint_look(look, mesh, 256, np.random.default_rng(2))
    places = positions[positions.any(axis=2)]
    share = accent_share(look, positions, np.zeros(positions.shape[:2], int))[positions.any(axis=2)]
    order = np.argsort(places[:, 1])
    assert np.abs(np.diff(share[order]))[np.diff(places[order, 1]) < 1e-4].max() < 0.05


@pytest.mark.parametrize("shape", SHAPES)
def test_random_looks_paint_every_covered_texel_and_repeat(shape):
    mesh = mesh_of(shape)
    seen = set()
    for seed in range(6):
        look = random_look(np.random.default_rng(seed), shape)
        atlas, positions = paint_look(look, mesh, 96, np.random.default_rng(seed))
        assert np.array_equal(atlas, paint_look(look, mesh, 96, np.random.default_rng(seed))[0])
        assert atlas[positions.any(axis=2)].any(axis=-1).all()
        seen.add(describe(look, shape))
    assert len(seen) == 6


def test_a_rainbow_goes_from_the_bottom_to_the_top():
    mesh = mesh_of("crate")
    look = rainbow_look(np.random.default_rng(2), "crate")
    assert describe(look, "crate").endswith(f"rainbow {look.pattern.material} crate")
    look = replace(look, pattern=replace(look.pattern, material="marble", worn=False))
    atlas, positions = paint_look(look, mesh, 256, np.random.default_rng(1))
    height = np.where(positions.any(axis=2), positions[..., 1], -1)
    low, high = height[height >= 0].min(), height.max()
    seen = [
        votes(atlas, np.abs(height - low - (high - low) * step) < 0.03 * (high - low)) for step in np.linspace(0, 1, 6)
    ]
    assert seen == list(RAINBOW)
