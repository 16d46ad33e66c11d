"""Charts are unrolled without mirroring, inside the unit square, and apart from one another."""

import cv2
import numpy as np
import pytest

from texdiff.demo.shapes import SHAPES, pack


def signed_areas(points: np.ndarray) -> np.ndarray:
    """Triangles [F, 3, 2] -> [F]; positive where they run counter-clockwise."""
    a, b = points[:, 1] - points[:, 0], points[:, 2] - points[:, 0]
    return (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]) / 2


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", SHAPES)
def test_uv_map(shape, seed):
    rng = np.random.default_rng(seed)
    mesh = pack(SHAPES[shape](rng), rng, gap=0.02)
    corners = mesh.uv[mesh.faces]
    assert mesh.uv.min() >= 0
    assert mesh.uv.max() <= 1
    assert (signed_areas(corners) > 0).all()  # no picture on any side is mirrored
    assert 0.25 <= signed_areas(corners).sum() <= 0.80
    assert mesh.island.max() >= 2
    owners = np.zeros((512, 512), int)
    for island in range(mesh.island.max() + 1):
        mask = np.zeros((512, 512), np.uint8)
        for triangle in corners[mesh.island == island]:
            cv2.fillConvexPoly(mask, np.round(triangle * 512).astype(np.int32), 1)
        owners += cv2.dilate(mask, np.ones((7, 7), np.uint8))
    assert owners.max() == 1  # at least six texels of 512 lie between islands


@pytest.mark.parametrize("shape", ["crate", "barrel", "panel"])
def test_closed_shapes_face_outwards(shape):
    rng = np.random.default_rng(0)
    mesh = pack(SHAPES[shape](rng), rng, gap=0.02)
    a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
    outwards = (np.cross(b - a, c - a) * (a + b + c)).sum(-1)
    assert (outwards > 0).all()
