"""Bring both sides of each cut edge together, by a correction that is smooth inside the islands.

Seam levelling as in texture stitching (Lempitsky and Ivanov 2007; Waechter and others 2014), with one unknown a texel:
the correction g of a colour channel minimises

    sum over neighbouring covered texels (g_i - g_j)²  +  sum over covered texels (g_i / L)²
      +  W · sum over samples along the seams (c_A + g_A - c_B - g_B)²

where A and B are the two sides of a sample, c the colours there, and L the distance over which a correction fades.
"""

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from texdiff.uv.seams.edges import EdgePairs

Floats = NDArray[np.float64]
Grid = NDArray[np.float32]

FADE = 1 / 48
"""L as a share of the texture's longer side: islands keep their own colours but for a band beside each seam."""
WEIGHT = 2.0
"""W. A difference that is the same all along a seam shrinks to 1 / (1 + 2 W L) of it; more weight would make seams
smoother than the islands are."""
_INSIDE = 0.5  # texels from the edge: where colours are compared, so that interpolation finds covered texels alone
_FAR = 1e4  # in UV units: beyond that a coordinate says nothing of a texel
_SAMPLES = 2_000_000  # at most, along all seams
_TOLERANCE, _TOLERANCE_OF_HALF = 5e-4, 1e-4  # of a solution's residual; what is wrong far from seams shows least in it
_ROUNDS = 2000
_AT_ONCE = 256  # texels a side: larger textures begin with the correction of one of half the size
_BESIDE = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], np.float32)


def close_seams(texture: NDArray[np.uint8], mask: NDArray[np.bool_], seams: EdgePairs) -> NDArray[np.uint8]:
    """The texture with its seams closed.

    Args:
        texture: uint8 [H, W, 3], row 0 = v near 1.
        mask: bool [H, W], the texels that the UV map touches at all; others stay as they are.
        seams: cut edges; their UVs wrap around.

    Returns:
        uint8 [H, W, 3], a new array.
    """
    correction = _corrections(texture, mask, seams, WEIGHT, _TOLERANCE)
    np.add(correction, texture, out=correction)
    return np.rint(np.clip(correction, 0, 255, out=correction), out=correction).astype(np.uint8)


def _corrections(
    texture: NDArray[np.uint8] | Grid, mask: NDArray[np.bool_], seams: EdgePairs, weight: float, tolerance: float
) -> Grid:
    """g of each channel, float32 [H, W, 3], 0 where nothing is covered.

    Conjugate gradients bring what is near together in a few rounds, and what is far in as many as L has texels. So they
    begin with the correction of the texture at half its size, which has half as many samples of twice the weight.
    """
    start = np.zeros((*mask.shape, 3), np.float32)
    jumps, at = _jumps(mask, seams)
    if not jumps.nnz:
        return start
    if max(mask.shape) > _AT_ONCE:
        start = _from_half(texture, mask, seams, weight)
    system = _System(mask, jumps, at, weight)
    for channel in range(3):
        colours = texture[..., channel].ravel()[at].astype(np.float32)
        right = -weight * (jumps.T @ (jumps @ colours))
        start[..., channel] = system.solve(right, start[..., channel], tolerance)
    return start


def _from_half(texture: NDArray[np.uint8] | Grid, mask: NDArray[np.bool_], seams: EdgePairs, weight: float) -> Grid:
    """The corrections of the texture at half its size, at its own size: float32 [H, W, 3]."""
    height, width = mask.shape
    half, own = ((width + 1) // 2, (height + 1) // 2), (width, height)
    known = mask.astype(np.float32)
    share = cv2.resize(known, half, interpolation=cv2.INTER_AREA)
    there = share > 0
    small = [cv2.resize(texture[..., i] * known, half, interpolation=cv2.INTER_AREA) for i in range(3)]
    colours: Grid = np.divide(np.stack(small, axis=2), np.where(there, share, 1)[..., None], dtype=np.float32)
    coarse = _corrections(colours, there, seams, 2 * weight, _TOLERANCE_OF_HALF)
    share = cv2.resize(there.astype(np.float32), own, interpolation=cv2.INTER_LINEAR)
    found = cv2.resize(coarse, own, interpolation=cv2.INTER_LINEAR)
    return np.multiply(found, (known / np.maximum(share, 1e-6))[..., None], out=found, dtype=np.float32)


class _System:
    """The linear equations of one channel's g, as sums over the texture's own grid: float32 [H, W].

    Args:
        jumps: [S, N], from the values of N texels to their differences across the seams.
        at: [N], numbers of these texels, row by row.
    """

    def __init__(self, mask: NDArray[np.bool_], jumps: sparse.csr_matrix, at: NDArray[np.intp], weight: float) -> None:
        self.mask, self.jumps, self.at, self.weight = mask, jumps, at, weight
        fade = max(FADE * max(mask.shape), 1.0)
        self.own = self._beside(mask.astype(np.float32)) + np.float32(1 / fade**2)
        self.scale = self.own.copy()  # the diagonal of all terms, by which rounds are preconditioned
        self.scale.ravel()[at] += weight * np.asarray(jumps.power(2).sum(axis=0))[0]
        np.divide(mask, self.scale, out=self.scale)

    def solve(self, right: Grid, start: Grid, tolerance: float) -> Grid:
        """g, from its right-hand side [N] at the texels of the seams; conjugate gradients."""
        found = np.array(start)
        residual = -self._times(found)
        residual.ravel()[self.at] += right
        direction = self.scale * residual
        size = float(np.vdot(direction, residual))
        # A level at each sample is the least that a texel can change.
        one_level = self.weight * self.jumps.shape[0] ** 0.5
        aim = tolerance * max(float(np.linalg.norm(right)), one_level)
        for _ in range(_ROUNDS):
            if np.linalg.norm(residual) <= aim:
                break
            product = self._times(direction)
            step = np.float32(size / float(np.vdot(direction, product)))
            found += step * direction
            residual -= step * product
            before, size = size, float(np.vdot(residual, self.scale * residual))
            direction *= np.float32(size / before)
            direction += self.scale * residual
        return found

    def _times(self, values: Grid) -> Grid:
        """The equations' left side, for values that are 0 where nothing is covered."""
        result = self.own * values
        result -= self._beside(values)
        result *= self.mask
        result.ravel()[self.at] += self.weight * (self.jumps.T @ (self.jumps @ values.ravel()[self.at]))
        return result

    @staticmethod
    def _beside(values: Grid) -> Grid:
        """The sum of the four neighbours of each."""
        return np.asarray(cv2.filter2D(values, -1, _BESIDE, borderType=cv2.BORDER_CONSTANT), np.float32)


def _jumps(mask: NDArray[np.bool_], seams: EdgePairs) -> tuple[sparse.csr_matrix, NDArray[np.intp]]:
    """From the values of N texels to their difference across the seams at S samples, float32 [S, N], and which texels
    these are: [N], numbers row by row.

    There is a sample for each texel along an edge, on the side where it is longer, or fewer where they were too many.
    """
    height, width = size = (mask.shape[0], mask.shape[1])
    near = (np.abs(seams.uv) <= _FAR).all(axis=(1, 2, 3))
    seams = EdgePairs(seams.uv[near], seams.length[near])
    spans = np.linalg.norm((seams.uv[:, :, 1] - seams.uv[:, :, 0]) * [width, height], axis=2)  # [E, side]
    spans *= min(1.0, _SAMPLES / max(spans.max(axis=1, initial=0).sum(), 1))
    counts = np.maximum(np.ceil(spans.max(axis=1)), 1).astype(int)
    edge = np.repeat(np.arange(len(counts)), counts)
    number = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts)
    share = (number + 0.5) / counts[edge]
    sides = [_interpolation(mask, seams.inside(edge, side, share, size, _INSIDE)) for side in (0, 1)]
    found = np.logical_and(*(np.asarray(side.sum(axis=1))[:, 0] > 0 for side in sides))
    jumps = (sides[0] - sides[1])[found]
    at, columns = np.unique(jumps.indices, return_inverse=True)
    return sparse.csr_matrix((jumps.data, columns, jumps.indptr), shape=(jumps.shape[0], len(at))), at


def _interpolation(mask: NDArray[np.bool_], places: Floats) -> sparse.csr_matrix:
    """Bilinear weights [S, H * W] of covered texels at places [S, 2], in texels, y up; what is not covered is left
    out."""
    height, width = mask.shape
    x, y = places[:, 0] - 0.5, height - places[:, 1] - 0.5
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    rows, columns, weights = [], [], []
    for down in (0, 1):
        for right in (0, 1):
            weight = np.abs(1 - right - (x - left)) * np.abs(1 - down - (y - top))
            texel = (top + down) % height * width + (left + right) % width
            kept = mask.ravel()[texel] & (weight > 1e-9)
            rows.append(np.flatnonzero(kept))
            columns.append(texel[kept])
            weights.append(weight[kept].astype(np.float32))
    matrix = sparse.coo_matrix(
        (np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns))), shape=(len(places), mask.size)
    ).tocsr()
    total = np.asarray(matrix.sum(axis=1))[:, 0]
    return sparse.diags(1 / np.where(total > 0, total, 1), dtype=np.float32) @ matrix
