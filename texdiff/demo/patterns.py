"""Patterns: what a texture shows, in words and in pixels.

    pattern = random_pattern(rng)     # Pattern(material="brick", colour="red", scale="large", worn=False)
    caption(pattern)                  # "large red brick"
    image = paint(pattern, 256, rng)  # uint8 [256, 256, 3]

The words and the pixels come from the same few choices, so that a model trained on them can be asked for
combinations it has not seen, and its answer can be checked.
"""

from dataclasses import dataclass

import numpy as np

from texdiff.demo.fields import fractal, step
from texdiff.demo.materials import MATERIALS
from texdiff.demo.palette import COLOURS, jittered, mix

SCALES = {"small": 1.6, "": 1.0, "large": 0.6}
"""How many times the material's own number of cells fit across the image."""


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """What to paint. `scale` is one of SCALES, `colour` one of COLOURS."""

    material: str
    colour: str
    scale: str = ""
    worn: bool = False


def random_pattern(rng: np.random.Generator) -> Pattern:
    """A pattern of the kind that `nano` is trained on."""
    materials = list(MATERIALS)
    return Pattern(
        material=materials[rng.integers(len(materials))],
        colour=list(COLOURS)[rng.integers(len(COLOURS))],
        scale=list(SCALES)[rng.integers(len(SCALES))],
        worn=bool(rng.random() < 0.3),
    )


def caption(pattern: Pattern) -> str:
    """The pattern in words: scale, wear, colour, material; "large worn red brick"."""
    words = [pattern.scale, "worn" if pattern.worn else "", pattern.colour, pattern.material]
    return " ".join(word for word in words if word)


def paint(pattern: Pattern, size: int, rng: np.random.Generator) -> np.ndarray:
    """Paint the pattern. Returns uint8 RGB [size, size, 3]; the same generator state gives the same bytes."""
    material = MATERIALS[pattern.material]
    cells = material.cells * SCALES[pattern.scale] * rng.uniform(0.92, 1.08)
    base = jittered(pattern.colour, rng)
    image = material.paint(rng, size, cells, base)
    if pattern.worn:
        image = _worn(image, base, rng)
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def _worn(image: np.ndarray, base: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Soft fading, specks and long scratches; the colour stays the same to the eye."""
    size = image.shape[0]
    faded = 0.5 * step(fractal(rng, size, 4, 3), 0.55, 0.5)
    grey = image.mean(-1, keepdims=True) * 0.6 + (0.14 if base.mean() < 0.2 else 0.30)
    specks = 0.6 * step(fractal(rng, size, 40, 2), 0.80, 0.06)
    scratches = 0.6 * step(fractal(rng, size, 60, 2, (1, 14)), 0.84, 0.06)
    chipped = np.full(3, 0.25 if base.mean() > 0.5 else 0.80)
    return mix(mix(mix(image, grey, faded), image * 0.3, specks), chipped, scratches)
