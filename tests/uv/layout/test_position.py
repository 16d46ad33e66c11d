"""Position and normal maps against brute force, and what must not change them."""

import time

import numpy as np
import pytest

from texdiff.uv.coverage import coverage_mask
from texdiff.uv.layout.position import normal_map, position_map


def random_mesh(rng: np.random.Generator, reach: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """UV triangles [F, 3, 2], up to `reach` tiles outside, and their corners in space [F, 3, 3]; some hang together by
    corners or edges on the mesh, some of these in the UV map too."""
    count = int(rng.integers(1, 40))
    middle = rng.uniform(-reach, 1 + reach, (count, 1, 2))
    uv = middle + rng.choice([0.02, 0.1, 0.4], (count, 1, 1)) * rng.normal(size=(count, 3, 2))
    corners = rng.normal(size=(count, 3, 3)) * [1, 2, 3]
    for number in range(1, count):
        other, shared, kind = rng.integers(number), rng.permutation(3)[: rng.integers(1, 3)], rng.random()
        if kind < 0.6:
            corners[number, shared] = corners[other, shared]
        if 0.3 < kind < 0.7:
            uv[number, shared] = uv[other, shared]
    return uv if reach else np.clip(uv, 0, 1), corners


def brute_force(uv: np.ndarray, corners: np.ndarray, priority: np.ndarray, size: tuple[int, int]) -> tuple:
    """(float64 [H, W, K] by barycentric coordinates of every texel's centre in every triangle of every tile, whether a
    triangle is there, whether a centre lies so near an edge that rounding decides)."""
    height, width = size
    row, column = np.mgrid[0:height, 0:width]
    values = np.zeros((height, width, corners.shape[2]))
    best, tie = np.full(size, -1), np.zeros(size, bool)
    order = np.lexsort((-np.arange(len(uv)), priority))  # the last one wins
    low, high = int(np.floor(uv.min())), int(np.ceil(uv.max()))
    for rank, number in enumerate(order):
        (ax, ay), (bx, by), (cx, cy) = uv[number]
        twice = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
        if abs(twice) < 1e-12:
            continue
        for tile_x in range(low, high + 1):
            for tile_y in range(low, high + 1):
                u, v = (column + 0.5) / width + tile_x, 1 - (row + 0.5) / height + tile_y
                second = ((u - ax) * (cy - ay) - (cx - ax) * (v - ay)) / twice
                third = ((bx - ax) * (v - ay) - (u - ax) * (by - ay)) / twice
                weights = np.stack([1 - second - third, second, third], axis=-1)
                tie |= (np.abs(weights) < 1e-9).any(axis=-1)
                inside = (weights > 0).all(axis=-1)
                tie |= inside & (best == rank)  # the same triangle a second time: either will do
                values[inside] = (weights @ corners[number])[inside]
                best[inside] = rank
    return values, best >= 0, tie


def winners(uv: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """A place in the order for each triangle, the higher the more is hidden by it: by the area of its island, then the
    island that comes first, then by its own area. Areas in sixteenths of an octave from the largest, rounded."""

    def classes(area: np.ndarray) -> np.ndarray:
        return np.round(16 * np.log2(area / area.max()))

    count = len(uv)
    ways = [np.sign(np.linalg.det([second - first, third - first])) for first, second, third in uv]
    island = np.arange(count)
    joined = [
        (i, j)
        for i in range(count)
        for j in range(i)
        if ways[i] == ways[j]
        and {(*a, *b) for a, b in zip(uv[i], corners[i], strict=True)}
        & {(*a, *b) for a, b in zip(uv[j], corners[j], strict=True)}
    ]
    for _ in range(count):  # until the number of an island's first triangle has reached its last
        for i, j in joined:
            island[[i, j]] = island[[i, j]].min()
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) / 2
    surface = np.array([area[island == number].sum() for number in range(count)])
    largest = classes(np.maximum(surface, 1e-300))[island]
    keys = list(zip(largest, [-number for number in island], classes(area), strict=True))
    return np.array([sorted(keys).index(key) for key in keys], float)


def in_the_box(corners: np.ndarray) -> np.ndarray:
    points = corners.reshape(-1, 3)
    middle, longest = (points.min(0) + points.max(0)) / 2, np.ptp(points, axis=0).max()
    return 0.5 + 0.9 * (corners - middle) / longest


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("reach", [0.0, 1.5])
def test_positions_equal_brute_force(seed: int, reach: float) -> None:
    rng = np.random.default_rng(seed)
    uv, corners = random_mesh(rng, reach)
    size = int(rng.integers(1, 50)), int(rng.integers(1, 50))
    expected, there, tie = brute_force(uv, in_the_box(corners), winners(uv, corners), size)
    drawn = position_map(uv, corners, size)
    assert drawn.dtype == np.float32
    np.testing.assert_allclose(drawn[there & ~tie], expected[there & ~tie], atol=1e-5)
    np.testing.assert_array_equal((drawn > 0).all(axis=-1), coverage_mask(uv, size))
    assert (drawn[~coverage_mask(uv, size)] == 0).all()
    assert drawn.max(initial=0) <= 0.95 + 1e-6


@pytest.mark.parametrize("seed", range(20))
def test_normals_equal_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    uv, corners = random_mesh(rng)
    normals = corners[:, [1, 2, 0]] / np.linalg.norm(corners[:, [1, 2, 0]], axis=2, keepdims=True)
    size = 31, 40
    summed, there, tie = brute_force(uv, normals, winners(uv, corners), size)
    drawn = normal_map(uv, 7.0 * normals, size, corners)
    sure = there & ~tie & (np.linalg.norm(summed, axis=2) > 1e-2)
    expected = summed[sure] / np.linalg.norm(summed[sure], axis=1, keepdims=True)
    np.testing.assert_allclose(drawn[sure] * 2 - 1, expected, atol=1e-4)
    assert (drawn[~coverage_mask(uv, size)] == 0).all()


def test_a_lopsided_mesh_lies_the_right_way_round() -> None:
    """Left is left, v is up, and the longest side alone reaches the ends."""
    uv = np.array([[[0, 0], [1, 0], [1, 1]], [[0, 0], [1, 1], [0, 1]]], float)
    corners = np.stack([4 * uv[..., 0], 2 * uv[..., 1], np.ones(uv.shape[:2])], axis=-1)
    drawn = position_map(uv, corners, (8, 16))
    x, y = (np.arange(16) + 0.5) / 16, 1 - (np.arange(8) + 0.5) / 8
    np.testing.assert_allclose(drawn[..., 0], np.broadcast_to(0.05 + 0.9 * x, (8, 16)), atol=1e-6)
    np.testing.assert_allclose(drawn[..., 1], np.broadcast_to((0.275 + 0.45 * y)[:, None], (8, 16)), atol=1e-6)
    np.testing.assert_allclose(drawn[..., 2], 0.5)


@pytest.mark.parametrize("seed", range(20))
def test_turning_the_atlas_turns_the_map_and_moving_the_mesh_changes_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    uv, corners = random_mesh(rng)
    _, _, tie = brute_force(uv, corners, winners(uv, corners), (32, 32))
    drawn = position_map(uv, corners, (32, 32))
    turned = position_map(np.stack([1 - uv[..., 1], uv[..., 0]], axis=-1), corners, (32, 32))
    np.testing.assert_allclose(turned[~np.rot90(tie)], np.rot90(drawn)[~np.rot90(tie)], atol=1e-5)
    moved = position_map(uv, 1e3 * corners + [5, -7, 11], (32, 32))
    np.testing.assert_allclose(moved[~tie], drawn[~tie], atol=1e-5)


def test_the_larger_of_two_overlapping_triangles_is_seen_and_of_equal_ones_the_first() -> None:
    one = np.array([[0, 0], [1, 0], [0, 1]], float)
    uv = np.stack([one, one, one])
    small, large = np.eye(3), 2 * np.eye(3)
    bounds = [[0, 0, 0], [2, 2, 2]]
    alone = position_map(uv[:1], large[None], (16, 16), bounds)
    for corners in ([small, large, large[[1, 2, 0]]], [large, large[[1, 2, 0]], small]):
        np.testing.assert_array_equal(position_map(uv, np.stack(corners), (16, 16), bounds), alone)


def strip(columns: int, at: float, v: tuple[float, float] = (0, 1)) -> np.ndarray:
    """A strip of 2 x `columns` triangles from (at, v) to (1, v): [F, 3, 2]."""
    u = np.linspace(at, 1, columns + 1)
    lower, upper = np.stack([u, np.full_like(u, v[0])], -1), np.stack([u, np.full_like(u, v[1])], -1)
    halves = [
        np.stack([lower[:-1], lower[1:], upper[1:]], 1),
        np.stack([lower[:-1], upper[1:], upper[:-1]], 1),
    ]
    return np.concatenate(halves)


def test_the_island_with_more_surface_is_seen_though_its_triangles_are_smaller() -> None:
    """A floor of two large triangles under a wall of forty small ones: no texel of the floor between the wall's."""
    floor, wall = strip(1, 0.0), strip(20, 0.0)
    low, high = np.zeros((2, 3, 1)), np.ones((40, 3, 1))
    corners = np.concatenate([np.concatenate([floor, low], -1), np.concatenate([1.5 * wall, high], -1)])
    drawn = position_map(np.concatenate([floor, wall]), corners, (32, 32))
    assert (drawn[..., 2] > 0.5).all()
    parted = corners.copy()  # the wall's triangles stand apart from each other, so each is an island
    parted[2:, :, 2] += np.arange(40)[:, None]
    assert (position_map(np.concatenate([floor, wall]), parted, (32, 32))[..., 2] <= 0.06).all()


def test_mirrored_halves_that_meet_in_the_middle_are_two_islands() -> None:
    """The left half has the larger triangles on one end, the right half on the other; one half alone is seen."""
    half = strip(8, 0.0)
    right = np.concatenate([half[..., :1] ** 2, half[..., 1:], 0 * half[..., :1]], -1)
    left = np.concatenate([-np.sqrt(half[..., :1]), half[..., 1:], 0 * half[..., :1]], -1)[:, [1, 0, 2]]
    uv, corners = np.concatenate([half, half[:, [1, 0, 2]]]), np.concatenate([right, left])
    assert ((left[..., 0] == 0) & (right[:, [1, 0, 2], 0] == 0)).any()
    for order in (slice(None), slice(None, None, -1)):
        x = position_map(uv[order], corners[order], (32, 32))[..., 0]
        assert (x > 0.5).all() if order.step is None else (x < 0.5).all()


def test_mirrored_halves_that_share_their_texels_do_not_mix() -> None:
    """Their areas differ by rounding, one way here and the other way there: the half that comes first is seen."""
    uv = np.concatenate([strip(9, 0.0, (k / 9, (k + 1) / 9)) for k in range(9)])
    left = np.concatenate([-uv - 0.1, uv[..., :1] * 0], axis=-1)
    right = left * [-1, 1, 1] + 1e-6 * np.sin(1e3 * left)
    drawn = position_map(np.concatenate([uv, uv]), np.concatenate([left, right]), (64, 64))
    assert (drawn[..., 0][drawn[..., 0] > 0] < 0.5).all()
    drawn = position_map(np.concatenate([uv, uv]), np.concatenate([right, left]), (64, 64))
    assert (drawn[..., 0][drawn[..., 0] > 0] > 0.5).all()


def test_a_texture_that_tiles_a_wall_is_seen_once() -> None:
    """Thousands of repeats cost no more than one, and each texel lies somewhere where it is really seen."""
    for repeats in (3.0, 40.0, 3000.0):
        uv = repeats * np.array([[[0, 0], [1, 0], [1, 1]], [[0, 0], [1, 1], [0, 1]]])
        corners = np.concatenate([uv / repeats, np.zeros((2, 3, 1))], axis=-1)
        drawn = position_map(uv, corners, (16, 16)).astype(float)
        assert (drawn[..., :2] > 0).all()
        column, row = (repeats * ((drawn[..., k] - 0.05) / 0.9) % 1 * 16 for k in (0, 1))
        far = 3e-3 * repeats  # what float32 can tell apart, in texels
        apart = np.abs(column - (np.arange(16) + 0.5))
        assert (np.minimum(apart, 16 - apart) <= far).all()
        apart = np.abs(16 - row - (np.arange(16) + 0.5)[:, None])
        assert (np.minimum(apart, 16 - apart) <= far).all()


def test_what_is_not_finite_lies_in_the_middle_or_covers_nothing() -> None:
    uv = np.array([[[0, 0], [1, 0], [0, 1]], [[1, 0], [1, 1], [0, 1]], [[0, 0], [np.nan, 0], [0, 1]]])
    corners = np.arange(27, dtype=float).reshape(3, 3, 3)
    corners[1, 1, 2] = np.inf
    drawn = position_map(uv, corners, (8, 8))
    assert (drawn[0, -1] == 0.5).all()
    assert np.isfinite(drawn).all()
    assert (normal_map(uv, np.zeros_like(corners), (8, 8)) == 0.5).all()
    assert position_map(np.zeros((0, 3, 2)), np.zeros((0, 3, 3)), (4, 4)).sum() == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"positions": np.zeros((1, 3, 2))}, "positions have shape"),
        ({"uv": np.zeros((2, 3, 2))}, "positions have shape"),
        ({"size": (0, 4)}, "size is"),
        ({"bounds": [[1, 1, 1], [0, 0, 0]]}, "bounds must be"),
        ({"bounds": [0, 1]}, "bounds must be"),
    ],
)
def test_wrong_arguments_are_named(change: dict, words: str) -> None:
    arguments = {"uv": np.zeros((1, 3, 2)), "positions": np.zeros((1, 3, 3)), "size": (4, 4)} | change
    with pytest.raises(ValueError, match=words):
        position_map(**arguments)


@pytest.mark.parametrize("seed", range(6))
def test_a_texture_that_is_repeated_many_times_equals_brute_force(seed: int) -> None:
    """Most triangles are hidden by a few larger ones, and are left out where they are."""
    rng = np.random.default_rng(seed)
    uv, corners = rng.uniform(-4, 4, (150, 1, 2)) + rng.normal(size=(150, 3, 2)), rng.normal(size=(150, 3, 3))
    uv[:, :, seed % 2] *= 0.2 if seed < 3 else 1  # else some columns or rows stay bare
    size = int(rng.integers(10, 40)), int(rng.integers(10, 40))
    expected, there, tie = brute_force(uv, in_the_box(corners), winners(uv, corners), size)
    drawn = position_map(uv, corners, size)
    assert np.array_equal((drawn > 0).all(axis=-1), coverage_mask(uv, size))
    np.testing.assert_allclose(drawn[there & ~tie], expected[there & ~tie], atol=1e-5)


def test_a_hundred_thousand_triangles_take_a_second() -> None:
    k = 224
    row, column = np.mgrid[0:k, 0:k] / k
    square = np.stack([column, row], -1)[..., None, :] + np.array([[0, 0], [1, 0], [1, 1], [0, 0], [1, 1], [0, 1]]) / k
    uv = square.reshape(-1, 3, 2)
    corners = np.concatenate([uv, np.sin(uv.sum(-1, keepdims=True))], -1) * np.random.default_rng(0).random(
        (len(uv), 1, 1)
    )
    begin = time.process_time()
    position_map(uv, corners, (2048, 2048))
    assert time.process_time() - begin < 1.0
