"""Bring both sides of each cut edge together, by a correction that is smooth inside the islands.

Seam levelling as in texture stitching (Lempitsky and Ivanov 2007; Waechter and others 2014), with one unknown a texel:
the correction g of a colour channel minimises

    sum over neighbouring covered texels (g_i - g_j)²  +  sum over covered texels (g_i / L)²
      +  W · sum over samples along the seams (c_A + g_A - c_B - g_B)²

where A and B are the two sides of a sample, c the colours there, and L the distance over which a correction fades.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import cg

from texdiff.uv.seams.edges import EdgePairs

Floats = NDArray[np.float64]

FADE = 1 / 48
"""L as a share of the texture's longer side: islands keep their own colours but for a band beside each seam."""
WEIGHT = 2.0
"""W. A difference that is the same all along a seam shrinks to 1 / (1 + 2 W L) of it; more weight would make seams
smoother than the islands are."""
_INSIDE = 0.5  # texels from the edge: where colours are compared, so that interpolation finds covered texels alone
_FAR = 1e4  # in UV units: beyond that a coordinate says nothing of a texel
_SAMPLES = 2_000_000  # at most, along all seams
_TOLERANCE = 1e-3  # of a solution; a level of 255 is 4e-3


def close_seams(texture: NDArray[np.uint8], mask: NDArray[np.bool_], seams: EdgePairs) -> NDArray[np.uint8]:
    """The texture with its seams closed.

    Args:
        texture: uint8 [H, W, 3], row 0 = v near 1.
        mask: bool [H, W], the texels that the UV map touches at all; others stay as they are.
        seams: cut edges; their UVs wrap around.

    Returns:
        uint8 [H, W, 3], a new array.
    """
    numbers = np.full(mask.shape, -1)
    numbers[mask] = np.arange(np.count_nonzero(mask))
    jumps = _jumps(numbers, seams)
    if not jumps.nnz:
        return texture.copy()
    colours = texture[mask].astype(np.float64)
    fade = max(FADE * max(mask.shape), 1.0)
    screened = _laplacian(numbers) + sparse.identity(len(colours), format="csr") / fade**2
    system = (screened + WEIGHT * (jumps.T @ jumps)).tocsr()
    precondition = sparse.diags(1 / system.diagonal())
    for channel in range(3):
        against = -WEIGHT * (jumps.T @ (jumps @ colours[:, channel]))
        correction, _ = cg(system, against, rtol=_TOLERANCE, maxiter=2000, M=precondition)
        colours[:, channel] += correction
    result = texture.copy()
    result[mask] = np.rint(np.clip(colours, 0, 255)).astype(np.uint8)
    return result


def _laplacian(numbers: NDArray[np.intp]) -> sparse.csr_matrix:
    """Of the graph that joins texels next to each other; `numbers` [H, W] are the texels' own, -1 where not covered."""
    pairs = [
        np.stack([one[both], other[both]])
        for one, other in ((numbers[:, :-1], numbers[:, 1:]), (numbers[:-1], numbers[1:]))
        for both in [(one >= 0) & (other >= 0)]
    ]
    one, other = np.concatenate(pairs, axis=1)
    count = int(numbers.max()) + 1
    joined = sparse.coo_matrix((np.ones(len(one)), (one, other)), shape=(count, count))
    joined = (joined + joined.T).tocsr()
    return sparse.diags(np.asarray(joined.sum(axis=1))[:, 0]) - joined


def _jumps(numbers: NDArray[np.intp], seams: EdgePairs) -> sparse.csr_matrix:
    """From the values of N covered texels to their difference across the seams at S samples, [S, N].

    There is a sample for each texel along an edge, on the side where it is longer, or fewer where they were too many.
    """
    height, width = size = (numbers.shape[0], numbers.shape[1])
    near = (np.abs(seams.uv) <= _FAR).all(axis=(1, 2, 3))
    seams = EdgePairs(seams.uv[near], seams.length[near])
    spans = np.linalg.norm((seams.uv[:, :, 1] - seams.uv[:, :, 0]) * [width, height], axis=2)  # [E, side]
    spans *= min(1.0, _SAMPLES / max(spans.max(axis=1, initial=0).sum(), 1))
    counts = np.maximum(np.ceil(spans.max(axis=1)), 1).astype(int)
    edge = np.repeat(np.arange(len(counts)), counts)
    number = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts)
    share = (number + 0.5) / counts[edge]
    sides = [_interpolation(numbers, seams.inside(edge, side, share, size, _INSIDE)) for side in (0, 1)]
    found = np.logical_and(*(np.asarray(side.sum(axis=1))[:, 0] > 0 for side in sides))
    return (sides[0] - sides[1])[found]


def _interpolation(numbers: NDArray[np.intp], places: Floats) -> sparse.csr_matrix:
    """Bilinear weights [S, N] of covered texels at places [S, 2], in texels, y up; what is not covered is left out."""
    height, width = numbers.shape
    x, y = places[:, 0] - 0.5, height - places[:, 1] - 0.5
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    rows, columns, weights = [], [], []
    for down in (0, 1):
        for right in (0, 1):
            weight = np.abs(1 - right - (x - left)) * np.abs(1 - down - (y - top))
            texel = numbers[(top + down) % height, (left + right) % width]
            kept = (texel >= 0) & (weight > 1e-9)
            rows.append(np.flatnonzero(kept))
            columns.append(texel[kept])
            weights.append(weight[kept])
    shape = (len(places), int(numbers.max()) + 1)
    matrix = sparse.coo_matrix(
        (np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns))), shape=shape
    ).tocsr()
    total = np.asarray(matrix.sum(axis=1))[:, 0]
    return sparse.diags(1 / np.where(total > 0, total, 1)) @ matrix
