"""The materials that `nano` is trained on. Each paints float RGB [size, size, 3] in about [0, 1]."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from texdiff.demo.fields import cobbles, courses, fractal, normalised, step, warped
from texdiff.demo.palette import mix, shade

Paint = Callable[[np.random.Generator, int, float, np.ndarray], np.ndarray]


class Material(NamedTuple):
    """`cells`: how many of its bricks, tiles, stripes... lie across an image of medium scale."""

    cells: float
    paint: Paint


def _brick(rng: np.random.Generator, size: int, cells: float, base: np.ndarray) -> np.ndarray:
    rows = max(3, round(cells))
    edge, tone, _ = courses(rng, size, rows, max(2, rows // 2), 0.5)
    face = shade(0.30 + 0.40 * tone + 0.25 * (fractal(rng, size, 16, 4) - 0.5), base)
    mortar = np.full(3, 0.30 if base.mean() > 0.5 else 0.72) * (0.85 + 0.3 * fractal(rng, size, 24, 2)[..., None])
    return mix(mortar, face, step(edge, 0.08, 0.06))


def _planks(rng: np.random.Generator, size: int, cells: float, base: np.ndarray) -> np.ndarray:
    rows = max(2, round(cells))
    edge, tone, _ = courses(rng, size, rows, 2, None)
    grain = warped(fractal(rng, size, 22, 3, (1, 12)), rng, 4, 0.02)
    wood = 0.28 + 0.32 * tone + 0.5 * (grain - 0.5)
    return shade(wood * step(edge, 0.025, 0.04), base)


def _tiles(rng: np.random.Generator, size: int, cells: float, base: np.ndarray) -> np.ndarray:
    rows = max(2, round(cells))
    edge, tone, _ = courses(rng, size, rows, rows, 0.0)
    bevel = 0.25 * step(edge, 0.12, 0.08)
    glaze = shade(0.28 + bevel + 0.15 * tone + 0.10 * fractal(rng, size, 3, 2), base)
    grout = np.full(3, 0.88 if base.mean() < 0.6 else 0.35)
    return mix(np.broadcast_to(grout, glaze.shape), glaze, step(edge, 0.05, 0.03))


def _marble(rng: np.random.Generator, size: int, cells: float, base: np.ndarray) -> np.ndarray:
    body = shade(0.40 + 0.35 * (fractal(rng, size, cells, 4) - 0.5), base)
    veins = np.zeros((size, size), np.float32)
    for strength in (0.9, 0.5):
        ridge = np.abs(warped(fractal(rng, size, cells, 3, (1, 2)), rng, cells, 0.10) - 0.5)
        veins = np.maximum(veins, strength * (1 - step(ridge, 0.022, 0.04)))
    return mix(body, np.full(3, 0.32 if base.mean() > 0.5 else 0.93), veins)


def _cloth(rng: np.random.Generator, size: int, cells: float, base: np.ndarray) -> np.ndarray:
    x = (np.arange(size, dtype=np.float32) + 0.5) / size * round(cells)
    down, across = x[:, None], x[None, :]
    over = (down.astype(int) + across.astype(int)) % 2 == 0
    # The thread on top is round across its run and dips under at its ends.
    along = np.where(over, across, down) % 1
    side = np.where(over, down, across) % 1
    thread = np.sin(np.pi * side) * (0.55 + 0.45 * np.sin(np.pi * along))
    return shade(0.06 + 0.62 * thread + 0.16 * over + 0.16 * (fractal(rng, size, 12, 3) - 0.5), base)


def _rust(rng: np.random.Generator, size: int, cells: float, base: np.ndarray) -> np.ndarray:
    painted = shade(0.50 + 0.14 * (fractal(rng, size, 6, 3) - 0.5), base)
    blotches = fractal(rng, size, cells, 5)
    rust = shade(0.15 + 0.75 * fractal(rng, size, 3 * cells, 4), np.array([0.45, 0.20, 0.07], np.float32))
    rim = step(blotches, 0.545, 0.03)
    return mix(mix(painted, painted * 0.45, rim), rust, step(blotches, 0.58, 0.03))


def _grass(rng: np.random.Generator, size: int, cells: float, base: np.ndarray) -> np.ndarray:
    tone = np.zeros((size, size), np.float32)
    for layer in range(4):
        blades = warped(fractal(rng, size, cells, 2, (5, 1)), rng, 6, 0.035)
        tone = np.maximum(tone, step(blades, 0.62, 0.12) * (0.40 + 0.18 * layer))
    return shade(0.04 + 0.95 * tone, base)


def _camouflage(rng: np.random.Generator, size: int, cells: float, base: np.ndarray) -> np.ndarray:
    image = np.broadcast_to(shade(np.array([[0.5]], np.float32), base), (size, size, 3))
    for tone, edge in ((0.95, 0.55), (0.22, 0.57), (0.0, 0.63)):
        blobs = warped(fractal(rng, size, cells, 2), rng, 2 * cells, 0.02)
        image = mix(image, shade(np.array([[tone]], np.float32), base), step(blobs, edge, 0.012))
    return image * (0.96 + 0.08 * fractal(rng, size, 40, 1)[..., None])


def _stone(rng: np.random.Generator, size: int, cells: float, base: np.ndarray) -> np.ndarray:
    edge, tone = cobbles(rng, size, max(3, round(cells)))
    dome = np.sqrt(np.clip(edge / 0.40, 0, 1))
    face = shade(0.08 + 0.42 * dome + 0.30 * tone + 0.22 * (fractal(rng, size, 14, 4) - 0.5), base)
    gap = np.full(3, 0.55 if base.mean() < 0.2 else 0.10)
    return mix(np.broadcast_to(gap, face.shape), face, step(edge, 0.045, 0.05))


def _metal(rng: np.random.Generator, size: int, cells: float, base: np.ndarray) -> np.ndarray:
    brushed = fractal(rng, size, 70, 2, (1, 24))
    sheen = 0.5 + 0.5 * np.sin(np.linspace(0, np.pi * rng.uniform(1.5, 3), size, dtype=np.float32) + rng.uniform(0, 6))
    tone = 0.34 + 0.30 * sheen[None, :] + 0.34 * (brushed - 0.5)
    n = max(2, round(cells))
    # Rivets: the four corners of each panel.
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size * n
    away = np.hypot((y % 1) - np.where(y % 1 < 0.5, 0.14, 0.86), (x % 1) - np.where(x % 1 < 0.5, 0.14, 0.86))
    seam = np.minimum(np.abs(y - np.round(y)), np.abs(x - np.round(x)))
    tone = tone + 0.55 * (1 - step(away, 0.045, 0.03)) - 0.35 * ((away > 0.055) & (away < 0.085))
    return shade(tone * step(seam, 0.018, 0.02), base)


def _leather(rng: np.random.Generator, size: int, cells: float, base: np.ndarray) -> np.ndarray:
    edge, tone = cobbles(rng, size, max(6, round(cells)))
    soft = warped(normalised(np.clip(edge, 0, 0.30)), rng, 8, 0.015)
    return shade(0.10 + 0.42 * soft + 0.12 * tone + 0.34 * (fractal(rng, size, 4, 2) - 0.5), base)


def _scales(rng: np.random.Generator, size: int, cells: float, base: np.ndarray) -> np.ndarray:
    n = max(3, round(cells))
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size * n
    image = np.zeros((size, size), np.float32)
    # Rows of discs from the bottom up; each row covers the upper part of the one below it.
    for row in range(2 * n + 2, -2, -1):
        centre = row / 2
        cx = np.round(x - 0.5 * (row % 2)) + 0.5 * (row % 2)
        radius = np.hypot(x - cx, y - centre)
        inside = radius < 0.56
        lit = 0.02 + 0.95 * np.clip(y - centre + 0.42, 0, 1) - 0.40 * step(radius, 0.50, 0.06)
        image = np.where(inside, lit, image)
    return shade(image + 0.12 * (fractal(rng, size, 10, 3) - 0.5), base)


MATERIALS: dict[str, Material] = {
    "brick": Material(10, _brick),
    "planks": Material(5, _planks),
    "tiles": Material(6, _tiles),
    "marble": Material(4, _marble),
    "cloth": Material(26, _cloth),
    "rust": Material(6, _rust),
    "grass": Material(34, _grass),
    "camouflage": Material(6, _camouflage),
    "stone": Material(6, _stone),
    "metal": Material(3, _metal),
    "leather": Material(24, _leather),
    "scales": Material(6, _scales),
}
