import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from uv_files import lettered_checker, square_glb

from texdiff.uv.audit import rejection_reason
from texdiff.uv.coverage import coverage_mask
from texdiff.uv.measures import measure
from texdiff.uv.meshes.atlases import read_atlases

SQUARE = np.array([[[0, 0], [1, 0], [1, 1]], [[0, 0], [1, 1], [0, 1]]], dtype=np.float64)
PAINT = lettered_checker(128)


def audit(triangles: np.ndarray, texture: np.ndarray = PAINT, surface: np.ndarray | None = None) -> dict[str, Any]:
    measures = measure(texture, coverage_mask(triangles, texture.shape[:2]), triangles, surface)
    json.dumps(measures, allow_nan=False)
    return measures


def test_a_sound_atlas_is_kept() -> None:
    measures = audit(SQUARE * 0.5, surface=np.array([2.0, 2.0]))
    assert rejection_reason(measures) is None
    assert measures["coverage"] == 0.25
    assert (measures["triangles"], measures["not_finite"], measures["degenerate"]) == (2, 0, 0)
    assert (measures["flipped"], measures["out_of_range"], measures["overlap"], measures["repeats"]) == (0, 0, 0, 1)
    assert (measures["islands"], measures["islands_lost"]) == (1, 0)
    assert measures["density"] == pytest.approx(np.sqrt(64 * 64 / 4))
    assert measures["density_spread"] == pytest.approx(1)
    assert all(measures[f"latent_lost_{mode}"] == 0 for mode in ("nearest", "nearest_exact", "area", "any", "all"))
    assert all(measures[f"latent_void_{mode}"] == 0 for mode in ("nearest", "nearest_exact", "area", "any", "all"))


def test_overlaps_and_flips_are_shares() -> None:
    upper, lower = SQUARE * [1, 0.5] + [0, 0.5], SQUARE * [1, 0.5]
    mirrored = lower[:, ::-1]
    measures = audit(np.concatenate([upper, lower, mirrored]))
    assert measures["overlap"] == pytest.approx(0.5)
    assert measures["overlap_max"] == 2
    assert measures["repeats"] == pytest.approx(1.5)
    assert measures["flipped"] == pytest.approx(1 / 3)


def test_range_and_repeats() -> None:
    measures = audit(np.concatenate([SQUARE * 3 - 1, SQUARE]))
    assert measures["out_of_range"] == 0.5
    assert (measures["uv_min_u"], measures["uv_max_v"]) == (-1, 2)
    assert measures["repeats"] == pytest.approx(10)
    assert rejection_reason(measures) is None
    slightly = audit(SQUARE * (1 + 0.4 / 128))
    assert slightly["out_of_range"] == 0  # by less than half a texel


def test_density_spread_is_weighted_by_surface() -> None:
    small = SQUARE[:1] * 0.25
    triangles = np.concatenate([SQUARE[:1] * 0.5, small + 0.5])
    same_surface = audit(triangles, surface=np.array([1.0, 1.0]))
    assert same_surface["density_spread"] == pytest.approx(2)
    mostly_one = audit(triangles, surface=np.array([1.0, 0.01]))
    assert mostly_one["density_spread"] == pytest.approx(1)


def test_degenerate_and_not_finite_triangles_are_counted() -> None:
    line = np.array([[[0, 0], [0.5, 0.5], [1, 1]]])
    nan = np.full((1, 3, 2), np.nan)
    measures = audit(np.concatenate([SQUARE, line, nan]))
    assert (measures["triangles"], measures["degenerate"], measures["not_finite"]) == (4, 1, 1)
    assert "are not finite" in str(rejection_reason(measures))
    many = np.concatenate([np.repeat(SQUARE, 100, axis=0), nan])
    assert rejection_reason(audit(many)) is None
    empty = audit(np.zeros((0, 3, 2)))
    assert "not covered" in str(rejection_reason(empty))
    assert "are not finite" in str(rejection_reason(audit(nan)))


def test_void_colours() -> None:
    texture = PAINT.copy()
    mask = coverage_mask(SQUARE * 0.5, (128, 128))
    texture[~mask] = (255, 0, 128)
    measures = measure(texture, mask)
    assert measures["void_constant"] is True
    assert measures["void_colour"] == "#ff0080"
    texture[0, 127] = 7
    measures = measure(texture, mask)
    assert (measures["void_constant"], measures["void_colours"], measures["void_colour"]) == (False, 2, "")
    full = measure(texture, np.ones((128, 128), dtype=bool))
    assert (full["void_colours"], full["void_constant"], full["void_contrast"]) == (0, False, 0)


@pytest.mark.parametrize("size", [(128, 128), (100, 77)])
def test_what_each_latent_mode_loses_equals_a_plain_loop(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(5)
    mask = np.kron(rng.random((30, 30)) < 0.4, np.ones((5, 5))).astype(bool)[: size[0], : size[1]]
    measures = measure(PAINT[: size[0], : size[1]], mask)
    kept = dict.fromkeys(("nearest", "nearest_exact", "area", "any", "all"), 0.0)
    given = dict(kept)
    for row in range(0, size[0], 8):
        for column in range(0, size[1], 8):
            cell = mask[row : row + 8, column : column + 8]
            centre = cell[4, 4] if cell.shape[0] > 4 and cell.shape[1] > 4 else False
            weights = [cell[0, 0], centre, cell.mean(), cell.any(), cell.all()]
            for mode, weight in zip(kept, weights, strict=True):
                kept[mode] += float(weight) * cell.sum()
                given[mode] += float(weight) * cell.size
    for mode in kept:
        assert measures[f"latent_lost_{mode}"] == pytest.approx(1 - kept[mode] / mask.sum())
        assert measures[f"latent_void_{mode}"] == pytest.approx(1 - kept[mode] / given[mode] if given[mode] else 0)


def test_islands_that_vanish_at_latent_size() -> None:
    mask = np.zeros((64, 64), dtype=bool)
    mask[8:24, 8:24] = True  # holds a cell's top left texel
    mask[33:39, 33:39] = True  # lies between them
    mask[40:48, 1:7] = True
    measures = measure(PAINT[:64, :64], mask)
    assert (measures["islands"], measures["islands_lost"]) == (3, 2)
    thin = np.zeros((64, 64), dtype=bool)
    thin[1::8, :] = True
    assert "too thin for a latent cell" in str(rejection_reason(measure(PAINT[:64, :64], thin)))


@pytest.mark.parametrize(
    ("texture", "triangles", "words"),
    [
        (PAINT[:63], SQUARE, "is 128x63 texels; a side below 64"),
        (np.tile(PAINT, (5, 1, 1))[:, :128], SQUARE, "is 128x640 texels; beyond 4:1"),
        (np.full_like(PAINT, 9), SQUARE, "is plain where the UV map covers it"),
        (PAINT, SQUARE * 0.1, "is covered to 1.0"),
        (PAINT, SQUARE * 0.001 + 0.0005, "is not covered"),
        (PAINT, SQUARE * 3_443_870_976, "UV coordinates as large as 3.44e+09"),
        (np.full((1, 1, 3), 9, dtype=np.uint8), SQUARE, "is 1x1 texels"),
    ],
)
def test_what_is_set_aside_and_why(texture: np.ndarray, triangles: np.ndarray, words: str) -> None:
    reason = rejection_reason(audit(triangles, texture))
    assert reason is not None
    assert words in reason
    assert "\n" not in reason


def test_udim_is_told_from_repeats_and_from_islands_moved_by_a_tile() -> None:
    left, right = SQUARE * [0.4, 0.9], SQUARE * [0.4, 0.9] + [0.5, 0]
    tile = np.array([1, 0])
    udim = np.concatenate([left, right + tile, SQUARE * [0.9, 0.3] + [0, 1]])
    measures = audit(udim)
    assert (measures["udim"], measures["tiles"]) == (True, 3)
    assert "UDIM" in str(rejection_reason(measures))
    moved_aside = np.concatenate([left, left + tile])
    repeated = SQUARE * 3
    negative = np.concatenate([left, right - tile])
    over_the_border = np.concatenate([left, right + 0.3 * tile])
    some_moved = np.concatenate([left, right, right * [1, 0.4] + tile])
    for triangles in (moved_aside, some_moved, repeated, negative, over_the_border, SQUARE):
        assert not audit(triangles)["udim"]


def test_the_same_texels_have_the_same_hash(tmp_path: Path) -> None:
    hashes = set()
    for name in ("a.glb", "b.glb"):
        atlas = read_atlases(square_glb(tmp_path / name, PAINT)).atlases[0]
        hashes.add(audit(atlas.triangles, atlas.texture, atlas.mesh_area)["texture_sha256"])
    hashes.add(measure(PAINT.transpose(1, 0, 2).copy(), np.ones((128, 128), dtype=bool))["texture_sha256"])
    assert len(hashes) == 2


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match="shape"):
        measure(PAINT, np.ones((64, 128), dtype=bool))
