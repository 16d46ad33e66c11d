"""How far one set of images lies from another, by their features: KID with its confidence interval, and FID."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

_ROWS = 1024  # of a kernel matrix at a time


class Interval(NamedTuple):
    """An estimate and its 95 % confidence interval."""

    mean: float
    low: float
    high: float


def kid(features_a: ArrayLike, features_b: ArrayLike) -> Interval:
    """Kernel inception distance of features [N, D] and [M, D]: unbiased, so two samples of one distribution give 0
    on average, and single values below 0.

    The squared maximum mean discrepancy with the kernel (x·y/D + 1)^3 (Bińkowski et al., "Demystifying MMD GANs",
    2018), over all pairs at once: that is the mean over all subsets of any size, of which the usual implementations
    draw some at random. The interval is the jackknife's for two samples (Arvesen, "Jackknifing U-statistics", 1969)
    with the normal distribution's 1.96 standard errors.

    Raises:
        ValueError: fewer than 3 images in a set, other shapes, or features that are not finite.
    """
    mean, without_a, without_b = _deletions(*_check(features_a, features_b, least=3))
    return _jackknife(mean, without_a, without_b)


def kid_difference(features_a: ArrayLike, features_b: ArrayLike, references: ArrayLike) -> Interval:
    """KID of [N, D] to the references [M, D] less that of another [N, D], whose image number i was made from the same
    prompt and noise: below 0, the first set is closer.

    Its interval is narrower than those of both would let one think, since what image and references they have in
    common makes both larger or smaller at once.

    Raises:
        ValueError: as `kid`, or the two sets are not of one size.
    """
    a, to = _check(features_a, references, least=3)
    b, _ = _check(features_b, references, least=3)
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} images; use pairs")
    one, other = _deletions(a, to), _deletions(b, to)
    return _jackknife(one[0] - other[0], one[1] - other[1], one[2] - other[2])


def _jackknife(mean: float, without_a: Floats, without_b: Floats) -> Interval:
    """From the estimates without each of the N and each of the M images."""
    margin = 1.96 * np.sqrt((len(without_a) - 1) * without_a.var() + (len(without_b) - 1) * without_b.var())
    return Interval(float(mean), float(mean - margin), float(mean + margin))


def _deletions(a: Floats, b: Floats) -> tuple[float, Floats, Floats]:
    """The unbiased estimate of all of [N, D] and [M, D], and that without each in turn: [N], [M]."""
    n, m = len(a), len(b)
    # Sums over a row leave out the image's kernel with itself.
    a_a, b_b = _row_sums(a, a) - _kernel_diagonal(a), _row_sums(b, b) - _kernel_diagonal(b)
    a_b, b_a = _row_sums(a, b), _row_sums(b, a)
    within_a, within_b, across = a_a.sum(), b_b.sum(), a_b.sum()
    mean = within_a / (n * (n - 1)) + within_b / (m * (m - 1)) - 2 * across / (n * m)
    without_a = (within_a - 2 * a_a) / ((n - 1) * (n - 2)) + within_b / (m * (m - 1))
    without_a -= 2 * (across - a_b) / ((n - 1) * m)
    without_b = within_a / (n * (n - 1)) + (within_b - 2 * b_b) / ((m - 1) * (m - 2))
    without_b -= 2 * (across - b_a) / (n * (m - 1))
    return float(mean), without_a, without_b


def fid(features_a: ArrayLike, features_b: ArrayLike) -> float:
    """Fréchet distance of two normal distributions fitted to features [N, D] and [M, D] (Heusel et al., 2017).

    |μ_a − μ_b|² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½). It is biased, upwards and more so the fewer images there are, so it
    compares only sets of equal size; KID does not have that fault.

    Raises:
        ValueError: fewer than 2 images in a set, other shapes, or features that are not finite.
    """
    a, b = _check(features_a, features_b, least=2)
    # With Σ = XᵀX, tr (Σ_a Σ_b)^½ is the sum of the singular values of X_a X_bᵀ: no root of a D x D matrix, and exact
    # where there are fewer images than dimensions.
    x, y = ((f - f.mean(axis=0)) / np.sqrt(len(f) - 1) for f in (a, b))
    root = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    distance = np.square(a.mean(axis=0) - b.mean(axis=0)).sum()
    return float(max(distance + np.square(x).sum() + np.square(y).sum() - 2 * root, 0.0))


def _check(features_a: ArrayLike, features_b: ArrayLike, least: int) -> tuple[Floats, Floats]:
    a, b = np.asarray(features_a, np.float64), np.asarray(features_b, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"features have shapes {a.shape} and {b.shape}; use [N, D] and [M, D]")
    if min(len(a), len(b)) < least:
        raise ValueError(f"{len(a)} and {len(b)} images; use {least} or more in each set")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("features are not finite")
    return a, b


def _row_sums(a: Floats, b: Floats) -> Floats:
    """Sum over the rows y of `b` of the kernel of x and y, for each row x of `a`."""
    blocks = [a[start : start + _ROWS] for start in range(0, len(a), _ROWS)]
    return np.concatenate([((block @ b.T / a.shape[1] + 1) ** 3).sum(axis=1) for block in blocks])


def _kernel_diagonal(a: Floats) -> Floats:
    return np.asarray((np.square(a).sum(axis=1) / a.shape[1] + 1) ** 3)
