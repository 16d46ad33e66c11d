"""Materials that `nano` has never seen, for the demo's fine-tuning to teach. No training of `nano` may use them."""

import numpy as np

from texdiff.demo.materials import Material
from texdiff.demo.noise import courses, fractal, step
from texdiff.demo.palette import mix, shade


def _circuit(rng: np.random.Generator, size: int, cells: float, base: np.ndarray) -> np.ndarray:
    """Glowing traces on a dark board: walks on a lattice, each ending in a ring."""
    import cv2

    n = max(6, round(cells))
    scale = 8 * size / n  # fixed-point coordinates with three binary digits, in lattice steps
    width = max(1, round(size / n / 7))
    traces = np.zeros((size, size), np.uint8)
    for _ in range(round(0.45 * n * n / 3)):
        place = rng.integers(0, n, 2) + 0.5
        heading = int(rng.integers(8))
        way = [place]
        for _ in range(int(rng.integers(2, 5))):
            turn = np.array([np.cos(heading * np.pi / 4), np.sin(heading * np.pi / 4)]).round()
            way.append(way[-1] + turn * int(rng.integers(1, 3)))
            heading += int(rng.choice([-1, 1]))
        points = np.round(np.array(way) * scale).astype(np.int32)
        cv2.polylines(traces, [points], False, 255, width, cv2.LINE_AA, 3)
        for end in (points[0], points[-1]):
            centre = (int(end[0]), int(end[1]))
            cv2.circle(traces, centre, round(0.22 * scale), 255, width, cv2.LINE_AA, 3)
    line = traces.astype(np.float32) / 255
    glow = cv2.GaussianBlur(line, (0, 0), size / n / 3)
    board = np.array([0.05, 0.06, 0.09], np.float32) * (0.8 + 0.6 * fractal(rng, size, 6, 3)[..., None])
    bright = base / base.max() if base.max() > 0.3 else np.array([0.42, 0.44, 0.48], np.float32)
    return board + bright * (0.55 * glow + 0.75 * line)[..., None] + 0.25 * (line**2)[..., None]


def _hazard(rng: np.random.Generator, size: int, cells: float, base: np.ndarray) -> np.ndarray:
    """Slanted warning stripes on a near-black or, where the paint is black, a light ground."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    phase = ((x + y) * round(cells) / 2 + rng.random()) % 1
    stripe = step(np.abs(phase - 0.5), 0.25, 0.03)
    ground = np.full(3, 0.85 if base.mean() < 0.2 else 0.09) * (0.9 + 0.2 * fractal(rng, size, 8, 4)[..., None])
    return mix(ground, shade(0.5 + 0.2 * (fractal(rng, size, 8, 4) - 0.5), base), stripe)


def _patchwork(rng: np.random.Generator, size: int, cells: float, base: np.ndarray) -> np.ndarray:
    """Sewn patches: plain, striped and dotted ones side by side, with light stitches along the seams."""
    n = max(2, round(cells))
    edge, tone, _ = courses(rng, size, n, n, 0.0)
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size * n
    stripes = step(np.abs((x * 4) % 1 - 0.5), 0.25, 0.1)
    dots = 1 - step(np.hypot((x * 3) % 1 - 0.5, (y * 3) % 1 - 0.5), 0.28, 0.1)
    kind = np.select([tone < 0.33, tone < 0.66], [stripes, dots], 0.5 * np.ones_like(tone))
    cloth = mix(shade(0.30 + 0.35 * ((tone * 7) % 1), base), np.full(3, 0.92 if base.mean() < 0.6 else 0.3), 0.5 * kind)
    stitch = (np.abs(edge - 0.09) < 0.022) & (((x + y) * 8) % 1 < 0.6)
    cloth = cloth * (0.45 + 0.55 * step(edge, 0.02, 0.04))[..., None]
    return mix(cloth, np.full(3, 0.95), stitch.astype(np.float32))


NEW_MATERIALS: dict[str, Material] = {
    "neon circuit": Material(14, _circuit),
    "hazard stripes": Material(8, _hazard),
    "patchwork": Material(4, _patchwork),
}
