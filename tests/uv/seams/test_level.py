"""Seams are closed as the formula says, smoothly, and nothing else changes."""

import numpy as np
import pytest

from texdiff.uv.coverage import coverage_mask
from texdiff.uv.seams import level
from texdiff.uv.seams.edges import EdgePairs
from texdiff.uv.seams.level import FADE, WEIGHT, close_seams


def square(left, bottom, side):
    """Two UV triangles."""
    low, high = np.array([left, bottom]), np.array([left + side, bottom + side])
    corner, other = [high[0], low[1]], [low[0], high[1]]
    return np.array([[low, corner, high], [low, high, other]])


def two_islands(size, gap=0.2, turned=False):
    """Mask and the seam of two squares side by side, the right side of the left one being the left side of the other.

    `turned` lays the second island on its back, so that the seam is its lower side.
    """
    side = (1 - 3 * gap) / 2
    first, second = square(gap, 0.3, side), square(2 * gap + side, 0.3, side)
    mask = coverage_mask(np.concatenate([first, second]), size, mode="conservative")
    right = np.array([[gap + side, 0.3], [gap + side, 0.3 + side], [gap, 0.3]])
    left = np.array([[2 * gap + side, 0.3], [2 * gap + side, 0.3 + side], [2 * gap + 2 * side, 0.3]])
    if turned:
        left = np.array([[2 * gap + side, 0.3], [2 * gap + 2 * side, 0.3], [2 * gap + side, 0.3 + side]])
    return mask, EdgePairs(np.stack([right, left])[None], np.ones(1))


def brute_force(texture, mask, seams):
    """The minimum by dense least squares, each term a row; places and interpolation worked out one by one."""
    height, width = mask.shape
    texels = [tuple(texel) for texel in np.argwhere(mask)]
    number = {texel: i for i, texel in enumerate(texels)}
    rows, right = [], []
    colours = np.array([texture[texel] for texel in texels], np.float64)

    def row(entries, factor, value=0.0):
        line = np.zeros(len(texels))
        for i, weight in entries:
            line[i] += factor * weight
        rows.append(line)
        right.append(factor * np.broadcast_to(value, 3))

    for y, x in texels:
        for neighbour in ((y + 1, x), (y, x + 1)):
            if neighbour in number:
                row([(number[y, x], 1), (number[neighbour], -1)], 1)
        row([(number[y, x], 1)], 1 / max(FADE * max(mask.shape), 1))
    for pair in seams.uv:
        ends = pair[:, :2] * [width, height]
        count = int(np.ceil(max(np.linalg.norm(ends[s, 1] - ends[s, 0]) for s in (0, 1))))
        for k in range(count):
            entries = []
            for sign, (first, second, third) in zip((1, -1), pair * [width, height], strict=True):
                along = (second - first) / np.linalg.norm(second - first)
                across = third - first - along * np.dot(third - first, along)
                at = first + (k + 0.5) / count * (second - first) + 0.5 * across / np.linalg.norm(across)
                x, y = at[0] - 0.5, height - at[1] - 0.5
                around = []
                for v in (int(np.floor(y)), int(np.floor(y)) + 1):
                    for u in (int(np.floor(x)), int(np.floor(x)) + 1):
                        weight = max(0, 1 - abs(x - u)) * max(0, 1 - abs(y - v))
                        if (v % height, u % width) in number and weight > 1e-9:
                            around.append((number[v % height, u % width], weight))
                total = sum(weight for _, weight in around)
                entries += [(i, sign * weight / total) for i, weight in around]
            jump = sum(weight * colours[i] for i, weight in entries)
            row(entries, np.sqrt(WEIGHT), -jump)
    correction = np.linalg.lstsq(np.array(rows), np.array(right), rcond=None)[0]
    result = texture.astype(np.float64)
    result[mask] += correction
    return result


@pytest.mark.parametrize("at_once", [256, 8])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("size", [(24, 24), (20, 32), (27, 25)])
def test_minimises(size, turned, at_once, monkeypatch):
    """By way of smaller textures as well."""
    monkeypatch.setattr(level, "_AT_ONCE", at_once)
    mask, seams = two_islands(size, turned=turned)
    texture = np.random.default_rng(0).integers(60, 200, (*size, 3), dtype=np.uint8)
    closed = close_seams(texture, mask, seams)
    assert np.abs(closed - brute_force(texture, mask, seams)).max() <= 0.6  # half a level is rounding
    assert (closed != texture)[mask].any()
    assert np.array_equal(closed[~mask], texture[~mask])


def test_two_colours_meet_and_stay_far_away():
    mask, seams = two_islands((256, 256), gap=0.04)
    texture = np.full((256, 256, 3), 100, np.uint8)
    texture[:, 128:] = 140
    closed = close_seams(texture, mask, seams).astype(int)
    row = closed[128, :, 0]
    left, right = np.flatnonzero(mask[128, :128])[-2], 128 + np.flatnonzero(mask[128, 128:])[1]
    assert abs(row[left] - row[right]) <= 9  # of 40; 1.8 are left at the seam, and the texels lie a little inside
    assert row[mask[128].argmax()] == 100
    assert row[np.flatnonzero(mask[128])[-1]] == 140
    assert (np.diff(row[:left]) >= 0).all()


def test_wrapped_coordinates_are_the_same_place():
    mask, seams = two_islands((64, 64))
    texture = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    shifted = EdgePairs(seams.uv + np.array([3.0, -2.0]), seams.length)
    assert np.array_equal(close_seams(texture, mask, shifted), close_seams(texture, mask, seams))


@pytest.mark.parametrize("at_once", [256, 8])
def test_what_has_no_seam_stays(at_once, monkeypatch):
    monkeypatch.setattr(level, "_AT_ONCE", at_once)
    mask, seams = two_islands((64, 64))
    texture = np.random.default_rng(2).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    none = EdgePairs(seams.uv[:0], seams.length[:0])
    assert np.array_equal(close_seams(texture, mask, none), texture)
    plain = np.full_like(texture, 77)
    assert np.array_equal(close_seams(plain, mask, seams), plain)


@pytest.mark.filterwarnings("error")
def test_far_coordinates_change_nothing_and_long_edges_take_no_memory():
    mask, seams = two_islands((64, 64))
    texture = np.random.default_rng(3).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    far = np.concatenate([seams.uv, seams.uv * 1e30, seams.uv * 1e200])
    together = close_seams(texture, mask, EdgePairs(far, np.ones(3)))
    assert np.array_equal(together, close_seams(texture, mask, seams))
    many = EdgePairs(np.repeat(seams.uv * 9000, 50, axis=0), np.ones(50))  # 50 edges of some 100,000 texels each
    assert close_seams(texture, mask, many).shape == texture.shape
