"""Materials that `nano` has never seen, for the demo's fine-tuning to teach. No training of `nano` may use them."""

import numpy as np

from texdiff.demo.fields import fractal, step
from texdiff.demo.materials import Material
from texdiff.demo.palette import mix, shade


def _hazard(rng: np.random.Generator, size: int, cells: float, base: np.ndarray) -> np.ndarray:
    """Slanted warning stripes on a near-black or, where the paint is black, a light ground."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    phase = ((x + y) * round(cells) / 2 + rng.random()) % 1
    stripe = step(np.abs(phase - 0.5), 0.25, 0.03)
    ground = np.full(3, 0.85 if base.mean() < 0.2 else 0.09) * (0.9 + 0.2 * fractal(rng, size, 8, 4)[..., None])
    return mix(ground, shade(0.5 + 0.2 * (fractal(rng, size, 8, 4) - 0.5), base), stripe)


HELD_OUT_MATERIALS: dict[str, Material] = {
    "hazard stripes": Material(8, _hazard),
}
