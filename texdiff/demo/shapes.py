"""Meshes with real UV maps: several islands each, packed apart from one another, with void between them.

A shape is a list of charts: pieces of surface, each unrolled flat without stretching much. `pack` lays the charts
out in the unit square; V points up, as in OBJ.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Chart:
    """A piece of surface. vertices float [V, 3], flat float [V, 2] (same unit, lower left at 0), faces int [F, 3]."""

    vertices: np.ndarray
    flat: np.ndarray
    faces: np.ndarray


@dataclass(frozen=True)
class Mesh:
    """vertices float [V, 3], uv float [V, 2] in [0, 1], faces int [F, 3], island int [F]: the chart of each face."""

    vertices: np.ndarray
    uv: np.ndarray
    faces: np.ndarray
    island: np.ndarray


def quad(corner: np.ndarray, right: np.ndarray, up: np.ndarray) -> Chart:
    """A rectangle from its lower left corner and its two sides, facing `right` x `up`."""
    vertices = np.stack([corner, corner + right, corner + right + up, corner + up])
    w, h = np.linalg.norm(right), np.linalg.norm(up)
    return Chart(vertices, np.array([[0, 0], [w, 0], [w, h], [0, h]]), np.array([[0, 1, 2], [0, 2, 3]]))


def box(size: np.ndarray, centre: np.ndarray) -> list[Chart]:
    """Six rectangles, facing outwards."""
    charts = []
    for axis in range(3):
        for sign in (1.0, -1.0):
            a, b = np.eye(3)[(axis + 1) % 3], np.eye(3)[(axis + 2) % 3]
            if sign < 0:
                a, b = b, a
            corner = centre + (sign * np.eye(3)[axis] - a - b) * size / 2
            charts.append(quad(corner, a * size, b * size))
    return charts


def lathe(profile: np.ndarray, segments: int) -> Chart:
    """The surface that `profile` [P, 2] (radius, height) draws around the Y axis, unrolled to one strip.

    The strip is as wide as the profile's mean circumference: necks are stretched in it and bellies squeezed, as
    in most people's UV maps. Walk the profile upwards to face outwards, downwards to face inwards.
    """
    turn = np.linspace(0, 2 * np.pi, segments + 1)
    around = np.stack([np.sin(turn), np.cos(turn)], -1)
    vertices = np.concatenate(
        [np.column_stack([around[:, 0] * r, np.full(segments + 1, y), around[:, 1] * r]) for r, y in profile]
    )
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(profile, axis=0), axis=1))])
    x = turn * profile[:, 0].mean()
    flat = np.stack(np.meshgrid(x, length), -1).reshape(-1, 2)
    i = (np.arange(len(profile) - 1)[:, None] * (segments + 1) + np.arange(segments)).reshape(-1)
    lower, upper = i, i + segments + 1
    faces = np.concatenate([np.stack([lower, lower + 1, upper + 1], -1), np.stack([lower, upper + 1, upper], -1)])
    return Chart(vertices, flat, faces)


def disc(radius: float, height: float, segments: int, up: bool) -> Chart:
    """A flat cap around the Y axis."""
    turn = np.linspace(0, 2 * np.pi, segments, endpoint=False)
    flat = np.concatenate([[[0, 0]], np.stack([np.sin(turn), np.cos(turn)], -1)]) * radius
    vertices = np.column_stack([flat[:, 0], np.full(len(flat), height), flat[:, 1]])
    i = np.arange(segments)
    rim, after = i + 1, (i + 1) % segments + 1
    faces = np.stack([np.zeros_like(i), rim, after] if up else [np.zeros_like(i), after, rim], -1)
    # Seen from its own side: an image on it must not be mirrored.
    mirrored = flat * ([1, -1] if up else [1, 1])
    return Chart(vertices, mirrored + radius, faces)


def crate(rng: np.random.Generator) -> list[Chart]:
    return box(rng.uniform(0.7, 1.3, 3), np.zeros(3))


def barrel(rng: np.random.Generator) -> list[Chart]:
    height, belly, segments = rng.uniform(1.0, 1.5), rng.uniform(0.06, 0.18), int(rng.integers(12, 25))
    y = np.linspace(-0.5, 0.5, 9)
    radius = 0.42 + belly * np.cos(y * np.pi)
    profile = np.column_stack([radius, y * height])
    caps = [disc(radius[0], -height / 2, segments, False), disc(radius[0], height / 2, segments, True)]
    return [lathe(profile, segments), *caps]


def vase(rng: np.random.Generator) -> list[Chart]:
    height, segments = rng.uniform(1.0, 1.6), int(rng.integers(16, 29))
    t = np.linspace(0, 1, 13)
    radius = 0.30 + rng.uniform(0.10, 0.2) * np.sin(np.pi * t) - rng.uniform(0.02, 0.12) * np.sin(1.6 * np.pi * t) ** 2
    outside = np.column_stack([radius, t * height])
    inside = np.column_stack([radius[-5:] - 0.03, t[-5:] * height])[::-1]
    return [lathe(outside, segments), lathe(inside, segments), disc(radius[0], 0.0, segments, False)]


def bowl(rng: np.random.Generator) -> list[Chart]:
    depth, segments = rng.uniform(0.35, 0.6), int(rng.integers(16, 29))
    t = np.linspace(0, 1, 7)
    radius = 0.25 + 0.35 * np.sin(t * np.pi / 2)
    outside = np.column_stack([radius, depth * (1 - np.cos(t * np.pi / 2))])
    inside = outside[::-1] * [0.93, 1] + [0, 0.02]
    caps = [disc(radius[0], 0.0, segments, False), disc(radius[0] * 0.93, 0.02, segments, True)]
    return [lathe(outside, segments), lathe(inside, segments), *caps]


def panel(rng: np.random.Generator) -> list[Chart]:
    return box(np.array([rng.uniform(1.0, 1.6), rng.uniform(0.8, 1.2), rng.uniform(0.06, 0.15)]), np.zeros(3))


def lamp(rng: np.random.Generator) -> list[Chart]:
    segments, top, foot = int(rng.integers(12, 25)), rng.uniform(0.18, 0.3), rng.uniform(0.25, 0.35)
    shade = np.array([[0.45, 0.6], [top, 1.1]])
    stem = np.array([[0.06, 0.05], [0.06, 0.65]])
    base = np.array([[foot, 0.0], [foot, 0.05]])
    caps = [disc(foot, 0.05, segments, True), disc(foot, 0.0, segments, False)]
    return [
        lathe(shade, segments),
        lathe(shade[::-1] * [0.97, 1], segments),
        lathe(stem, 8),
        lathe(base, segments),
        *caps,
    ]


def table(rng: np.random.Generator) -> list[Chart]:
    width, depth, thick = rng.uniform(1.0, 1.5), rng.uniform(0.6, 0.9), rng.uniform(0.05, 0.1)
    charts = box(np.array([width, thick, depth]), np.array([0, 0.7, 0]))
    for x in (-1, 1):
        for z in (-1, 1):
            leg = np.array([x * (width / 2 - 0.07), 0.35, z * (depth / 2 - 0.07)])
            charts += box(np.array([0.1, 0.7 - thick, 0.1]), leg)[:2] + box(np.array([0.1, 0.7 - thick, 0.1]), leg)[4:]
    return charts


SHAPES: dict[str, Callable[[np.random.Generator], list[Chart]]] = {
    "crate": crate,
    "barrel": barrel,
    "vase": vase,
    "bowl": bowl,
    "panel": panel,
    "lamp": lamp,
    "table": table,
}


def pack(charts: list[Chart], rng: np.random.Generator, gap: float) -> Mesh:
    """Lay the charts out on shelves in the unit square, at least `gap` (UV units) apart and off the border.

    All charts keep one scale, the largest that fits in the best of a few tries at turning each by quarters, less
    a little.
    """
    best, turned, corners = 0.0, [chart.flat for chart in charts], np.empty(0)
    for _ in range(12):
        tried = [_turned(chart.flat, int(rng.integers(4))) for chart in charts]
        sides = np.array([flat.max(0) for flat in tried])
        size = 4.0 / sides.max()
        while size > best:
            tried_corners = _shelves(sides * size, gap)
            if tried_corners is not None:
                best, turned, corners = size, tried, tried_corners
            size *= 0.97
    scale = best * rng.uniform(0.90, 1.0)
    offset = 0
    vertices, uv, faces, island = [], [], [], []
    for i, (chart, flat) in enumerate(zip(charts, turned, strict=True)):
        vertices.append(chart.vertices)
        uv.append(flat * scale + corners[i])
        faces.append(chart.faces + offset)
        island.append(np.full(len(chart.faces), i))
        offset += len(chart.vertices)
    return Mesh(np.concatenate(vertices), np.concatenate(uv), np.concatenate(faces), np.concatenate(island))


def _turned(flat: np.ndarray, quarters: int) -> np.ndarray:
    for _ in range(quarters):
        flat = np.column_stack([-flat[:, 1], flat[:, 0]])
    return flat - flat.min(0)


def _shelves(sides: np.ndarray, gap: float) -> np.ndarray | None:
    """Lower left corners for rectangles [N, 2] on shelves, the tallest first; None where they do not fit."""
    corners = np.zeros_like(sides)
    x, y, shelf = gap, gap, 0.0
    for i in np.argsort(-sides[:, 1], kind="stable"):
        w, h = sides[i]
        if x + w + gap > 1:
            x, y, shelf = gap, y + shelf + gap, 0.0
        if x + w + gap > 1 or y + h + gap > 1:
            return None
        corners[i] = x, y
        x, shelf = x + w + gap, max(shelf, h)
    return corners
