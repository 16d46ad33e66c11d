"""Seams on meshes made by hand, where what is seen across each edge is known."""

from pathlib import Path

import numpy as np
import pytest

from texdiff.evaluation.metrics.seams import MeshEdges, seam_error
from texdiff.render.color import ciede2000, to_lab
from texdiff.uv.meshes import read_parts


def strip(folder: Path, uv: list[list[tuple[float, float]]], shared: bool = False) -> tuple[Path, list[str]]:
    """Squares in a row, each with the four UVs of its corners; as parts with vertices of their own, or shared ones."""
    lines = ["mtllib strip.mtl"]
    for k, corners in enumerate(uv):
        if not (shared and k):
            lines.append(f"usemtl {'all' if shared else f'm{k}'}")
        lines += [f"v {k + x} {y} 0" for x, y in ((0, 0), (1, 0), (1, 1), (0, 1))]
        lines += [f"vt {u} {v}" for u, v in corners]
        lines.append("f " + " ".join(f"{4 * k + i}/{4 * k + i}" for i in (1, 2, 3, 4)))
    (folder / "strip.obj").write_text("\n".join(lines) + "\n")
    path = folder / "strip.obj"
    return path, [part.key for part in read_parts(path)]


def square(left: float, right: float, low: float = 0.2, high: float = 0.8) -> list[tuple[float, float]]:
    return [(left, low), (right, low), (right, high), (left, high)]


def halves(left: tuple[int, int, int], right: tuple[int, int, int], side: int = 64) -> np.ndarray:
    texture = np.empty((side, side, 3), np.uint8)
    texture[:, : side // 2], texture[:, side // 2 :] = left, right
    return texture


@pytest.mark.parametrize("shared", [False, True])
def test_a_seam_between_red_and_green(tmp_path: Path, shared: bool) -> None:
    """One seam, of which all samples show the same two colours; nothing changes inside the islands."""
    edges = MeshEdges(*strip(tmp_path, [square(0.05, 0.4), square(0.6, 0.95)], shared))
    assert (len(edges.seams.length), len(edges.inner.length)) == (1, 2)  # a seam, and a diagonal in each square
    assert edges.seams.length == pytest.approx([1])
    assert edges.inner.length == pytest.approx([2**0.5] * 2)
    figures = seam_error(edges, halves((255, 0, 0), (0, 255, 0))).metrics()
    expected = float(ciede2000(to_lab([1, 0, 0]), to_lab([0, 1, 0])))
    assert figures["mean"] == pytest.approx(expected)
    assert figures["p95"] == pytest.approx(expected)
    assert figures["inner_mean"] == 0
    assert figures["relative_mean"] is None  # nothing to compare with


def test_a_joined_edge_is_no_seam(tmp_path: Path) -> None:
    edges = MeshEdges(*strip(tmp_path, [square(0.1, 0.5), square(0.5, 0.9)]))
    assert (len(edges.seams.length), len(edges.inner.length)) == (0, 3)
    figures = seam_error(edges, halves((255, 0, 0), (0, 255, 0))).metrics()
    assert figures["mean"] is None
    assert figures["inner_mean"] > 0


def test_the_two_sides_of_a_mirrored_island_are_neither(tmp_path: Path) -> None:
    edges = MeshEdges(*strip(tmp_path, [square(0.1, 0.5), square(0.5, 0.1)]))
    assert (len(edges.seams.length), len(edges.inner.length)) == (0, 2)


def test_an_invisible_seam_is_1(tmp_path: Path) -> None:
    """A colour that rises steadily to the right and goes on behind the seam: across it as inside, two texels' worth."""
    (tmp_path / "a").mkdir()
    islands = [square(0.05, 0.45), square(0.55, 0.95)]
    edges = MeshEdges(*strip(tmp_path / "a", islands))
    slope, level = 1.5, np.zeros(128)
    at = np.arange(128) + 0.5
    level[:64] = 40 + slope * (at[:64] - 0.05 * 128)
    level[64:] = 40 + slope * (0.4 * 128 + at[64:] - 0.55 * 128)
    ramp = np.repeat(np.rint(np.clip(level, 0, 255)).astype(np.uint8)[None, :, None], 128, 0).repeat(3, 2)
    # Across a diagonal of a square of 51 x 77 texels the colours lie less than two texels apart from left to right.
    inclination = 77 / np.hypot(51, 77)
    assert seam_error(edges, ramp).metrics()["relative_mean"] == pytest.approx(1 / inclination, rel=0.1)
    broken = ramp.copy()
    broken[:, 64:] += 40
    assert seam_error(edges, broken).metrics()["relative_mean"] > 5


def test_noise_has_no_seams(tmp_path: Path) -> None:
    """Every texel is a stranger to the next, so that a seam makes no difference."""
    turned = [[(u + 0.1 * v, v - 0.15 * u) for u, v in square(*side)] for side in ((0.05, 0.4), (0.5, 0.85))]
    edges = MeshEdges(*strip(tmp_path, turned))  # askew, as bilinear look-up blurs noise in between texels
    noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)
    figures = seam_error(edges, noise).metrics()
    assert figures["relative_mean"] == pytest.approx(1, abs=0.06)
    assert figures["relative_p95"] == pytest.approx(1, abs=0.06)


def test_a_texel_is_a_texel_in_pictures_that_are_not_square(tmp_path: Path) -> None:
    """One texel inside is as far in a picture of 64 x 256; a step of a UV unit's share would not be."""
    edges = MeshEdges(*strip(tmp_path, [square(0.1, 0.5), square(0.5, 0.9)]))
    picture = np.zeros((256, 64, 3), np.uint8)
    picture[:, 32:] = 255
    wide = seam_error(edges, picture).inner.max()
    assert wide == pytest.approx(100)  # black and white, a whole texel from the step between them


def test_edges_of_other_parts_do_not_count(tmp_path: Path) -> None:
    path, parts = strip(tmp_path, [square(0.05, 0.4), square(0.6, 0.95)])
    edges = MeshEdges(path, parts[:1])
    assert (len(edges.seams.length), len(edges.inner.length)) == (0, 1)
    assert MeshEdges(path, []).inner.length.shape == (0,)


def test_errors_of_several_meshes_add_up(tmp_path: Path) -> None:
    edges = MeshEdges(*strip(tmp_path, [square(0.05, 0.4), square(0.6, 0.95)]))
    red, black = seam_error(edges, halves((255, 0, 0), (0, 255, 0))), seam_error(edges, halves((0, 0, 0), (0, 0, 0)))
    both = (red + black).metrics()
    assert both["mean"] == pytest.approx(red.metrics()["mean"] / 2)
