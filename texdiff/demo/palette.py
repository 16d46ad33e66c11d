"""Colours by name, and how a tone in [0, 1] becomes a colour."""

import numpy as np

# sRGB in [0, 1]. Far enough apart that anyone who sees the image names the word.
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.74, 0.12, 0.11),
    "orange": (0.94, 0.50, 0.08),
    "yellow": (0.93, 0.83, 0.16),
    "green": (0.16, 0.55, 0.20),
    "blue": (0.13, 0.30, 0.76),
    "purple": (0.48, 0.18, 0.66),
    "pink": (0.95, 0.55, 0.70),
    "brown": (0.42, 0.26, 0.13),
    "white": (0.90, 0.90, 0.88),
    "black": (0.13, 0.13, 0.14),
}

RAINBOW = ("red", "orange", "yellow", "green", "blue", "purple")
"""Colours of COLOURS from the bottom to the top of a rainbow look. No training of `nano` may use the word, nor more
than two colours on an object: the demo's fine-tuning teaches it."""


def jittered(name: str, rng: np.random.Generator) -> np.ndarray:
    """The named colour, a little off, as no two paints are the same. Float32 [3]."""
    return np.clip(np.array(COLOURS[name]) + rng.normal(0, 0.018, 3), 0.02, 0.98).astype(np.float32)


def shade(tone: np.ndarray, base: np.ndarray) -> np.ndarray:
    """Tone [H, W] in [0, 1] -> colour [H, W, 3]: darker than `base` below 0.5, lighter above."""
    bright = float(base.min()) > 0.6  # white has to stay white in its shadows
    dark = base * (0.72 if bright else 0.40)
    light = base + (1 - base) * (0.8 if bright else 0.26)
    tone = np.clip(tone, 0, 1)[..., None]
    return np.where(tone < 0.5, dark + (base - dark) * (2 * tone), base + (light - base) * (2 * tone - 1))


def mix(below: np.ndarray, above: np.ndarray, amount: np.ndarray) -> np.ndarray:
    """`above` laid over `below` where `amount` [H, W] is 1."""
    return below + (above - below) * amount[..., None]
