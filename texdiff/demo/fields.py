"""Scalar fields that every material is mixed from. All are float32 [size, size] and drawn from the generator given."""

import cv2
import numpy as np

Field = np.ndarray


def normalised(field: Field) -> Field:
    """`field` stretched to [0, 1]."""
    low, high = float(field.min()), float(field.max())
    return ((field - low) / max(high - low, 1e-6)).astype(np.float32)


def fractal(
    rng: np.random.Generator, size: int, cells: float, octaves: int = 4, stretch: tuple[float, float] = (1.0, 1.0)
) -> Field:
    """Fractal value noise in [0, 1]: `cells` lattice cells across the image, each octave twice as fine.

    `stretch` (rows, columns) makes the grain longer along an axis: (1, 8) is streaks that run left to right.
    """
    total = np.zeros((size, size), np.float32)
    for octave in range(octaves):
        rows, columns = (max(2, round(cells * 2**octave / s)) + 3 for s in stretch)
        lattice = rng.random((rows, columns), dtype=np.float32)
        fine = cv2.resize(lattice, (size + 2 * size // columns, size + 2 * size // rows), interpolation=cv2.INTER_CUBIC)
        total += fine[size // rows :][:size, size // columns :][:, :size] * 0.5**octave
    return normalised(total)


def warped(field: Field, rng: np.random.Generator, cells: float, strength: float) -> Field:
    """`field` with its places moved by smooth noise, by at most `strength` of the image's side."""
    size = field.shape[0]
    rows, columns = np.mgrid[0:size, 0:size].astype(np.float32)
    dx, dy = ((fractal(rng, size, cells, 3) - 0.5) * (2 * strength * size) for _ in range(2))
    return cv2.remap(field, columns + dx, rows + dy, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def cobbles(rng: np.random.Generator, size: int, cells: int) -> tuple[Field, Field]:
    """Voronoi cells around jittered lattice points.

    Returns (distance to the cell's border in cell widths, one random number in [0, 1] per cell).
    """
    step = size / cells
    rows, columns = np.mgrid[-1 : cells + 1, -1 : cells + 1]
    points = np.stack([rows, columns], -1).reshape(-1, 2) + rng.uniform(0.12, 0.88, ((cells + 2) ** 2, 2))
    # The lattice reaches one cell past the image, so that the border cells look like the others.
    pad = int(np.ceil(step))
    seeds = np.full((size + 2 * pad, size + 2 * pad), 255, np.uint8)
    y, x = np.clip((points * step + pad).astype(int), 0, size + 2 * pad - 1).T
    seeds[y, x] = 0
    _, labels = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    labels = labels[pad : pad + size, pad : pad + size]
    border = np.zeros((size, size), bool)
    border[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    border[1:, :] |= labels[1:, :] != labels[:-1, :]
    distance = cv2.distanceTransform((~border).astype(np.uint8), cv2.DIST_L2, 5) / step
    return distance.astype(np.float32), rng.random(labels.max() + 1, dtype=np.float32)[labels]


def courses(
    rng: np.random.Generator, size: int, rows: int, columns: int, shift: float | None
) -> tuple[Field, Field, Field]:
    """Rectangles in rows, as of a wall. `shift` moves every other row, in rectangles; None moves each at random.

    Returns (distance to the rectangle's border in row heights, a random number in [0, 1] per rectangle, its height
    coordinate in [0, 1] from top to bottom).
    """
    y = (np.arange(size, dtype=np.float32) + 0.5) / size * rows
    row = y.astype(int)
    offset = rng.random(rows, dtype=np.float32) if shift is None else np.arange(rows, dtype=np.float32) % 2 * shift
    x = (np.arange(size, dtype=np.float32) + 0.5)[None] / size * columns + offset[row][:, None] + rng.random()
    down = np.abs(y - np.round(y))[:, None]
    across = np.abs(x - np.round(x)) * (rows / columns)
    tone = rng.random((rows, columns + 2), dtype=np.float32)[row[:, None], x.astype(int) % (columns + 2)]
    return np.minimum(down, across), tone, np.broadcast_to((y - row)[:, None], (size, size))


def step(field: Field, edge: float, width: float) -> Field:
    """0 below `edge`, 1 above, smooth over `width`."""
    t = np.clip((field - edge) / width + 0.5, 0, 1)
    return (t * t * (3 - 2 * t)).astype(np.float32)
