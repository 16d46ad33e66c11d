"""KID and FID beside plain implementations, and what KID's interval is worth."""

import numpy as np
import pytest
import scipy.linalg

from texdiff.evaluation.metrics.distribution import fid, kid, kid_difference


def two_sets(n: int, m: int, d: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features of different means and covariances, skew, and not negative, as networks' are."""
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(d, d)) / np.sqrt(d)
    return np.abs(rng.normal(size=(n, d)) @ mix + 0.4), np.abs(rng.gamma(2.0, 0.5, (m, d)) @ (mix + 0.3 * np.eye(d)))


def slow_kid(a: np.ndarray, b: np.ndarray) -> float:
    """Pair by pair, as its authors define it."""

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float((np.dot(x, y) / len(x) + 1) ** 3)

    def within(rows: np.ndarray) -> float:
        pairs = [kernel(rows[i], rows[j]) for i in range(len(rows)) for j in range(len(rows)) if i != j]
        return sum(pairs) / len(pairs)

    return within(a) + within(b) - 2 * np.mean([kernel(x, y) for x in a for y in b])


def slow_fid(a: np.ndarray, b: np.ndarray) -> float:
    """With scipy's square root of the product of the covariances."""
    one, other = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(one @ other).real
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(one + other - 2 * root))


@pytest.mark.parametrize(("n", "m", "d"), [(3, 3, 5), (20, 31, 64), (60, 40, 16)])
def test_kid_is_the_plain_definition(n: int, m: int, d: int) -> None:
    a, b = two_sets(n, m, d)
    assert kid(a, b).mean == pytest.approx(slow_kid(a, b), rel=1e-3, abs=1e-12)
    assert kid(a, b).mean == pytest.approx(slow_kid(a, b), rel=1e-9, abs=1e-9)
    assert kid(b, a) == pytest.approx(kid(a, b))


def test_the_interval_is_the_jackknife_done_the_long_way() -> None:
    a, b = two_sets(9, 12, 6)
    without = [
        [slow_kid(np.delete(a, i, 0), b) for i in range(len(a))],
        [slow_kid(a, np.delete(b, i, 0)) for i in range(len(b))],
    ]
    variance = sum((len(values) - 1) * np.var(values) for values in without)
    found = kid(a, b)
    assert found.high - found.mean == pytest.approx(1.96 * np.sqrt(variance))
    assert found.mean - found.low == pytest.approx(1.96 * np.sqrt(variance))


def test_the_interval_of_a_difference_takes_pairs_out_together() -> None:
    (a, to), b = two_sets(9, 12, 6), two_sets(9, 12, 6, seed=1)[0]
    difference = [
        [slow_kid(np.delete(a, i, 0), to) - slow_kid(np.delete(b, i, 0), to) for i in range(9)],
        [slow_kid(a, np.delete(to, i, 0)) - slow_kid(b, np.delete(to, i, 0)) for i in range(12)],
    ]
    found = kid_difference(a, b, to)
    assert found.mean == pytest.approx(slow_kid(a, to) - slow_kid(b, to))
    reach = 1.96 * np.sqrt(sum((len(values) - 1) * np.var(values) for values in difference))
    assert (found.mean - found.low, found.high - found.mean) == pytest.approx((reach, reach))
    assert kid_difference(a, a, to) == (0, 0, 0)
    with pytest.raises(ValueError, match="pairs"):
        kid_difference(a, b[:5], to)


def test_many_pictures_are_summed_in_blocks() -> None:
    a, b = two_sets(1500, 1100, 8)
    whole = ((a @ a.T / 8 + 1) ** 3).sum() - ((np.square(a).sum(1) / 8 + 1) ** 3).sum()
    other = ((b @ b.T / 8 + 1) ** 3).sum() - ((np.square(b).sum(1) / 8 + 1) ** 3).sum()
    plain = whole / (1500 * 1499) + other / (1100 * 1099) - 2 * ((a @ b.T / 8 + 1) ** 3).mean()
    assert kid(a, b).mean == pytest.approx(plain, rel=1e-9)


@pytest.mark.parametrize(("n", "m", "d"), [(200, 150, 12), (40, 90, 24)])
def test_fid_is_the_plain_definition(n: int, m: int, d: int) -> None:
    a, b = two_sets(n, m, d)
    assert fid(a, b) == pytest.approx(slow_fid(a, b), rel=1e-3)
    assert fid(a, b) == pytest.approx(slow_fid(a, b), rel=1e-7)


def test_fid_of_fewer_pictures_than_dimensions() -> None:
    """There the product of covariances is singular and its root ill-conditioned, but traces are known in closed form:
    for two pictures each, a covariance is one outer product."""
    a, b = two_sets(2, 2, 50)
    u, v = ((f[0] - f[1]) / np.sqrt(2) for f in (a, b))
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + u @ u + v @ v - 2 * abs(u @ v)
    assert fid(a, b) == pytest.approx(expected, rel=1e-9)
    assert fid(a, a) == pytest.approx(0, abs=1e-9)


def test_kid_of_one_distribution_is_0_on_average_and_its_interval_holds_the_truth() -> None:
    rng = np.random.default_rng(1)
    shift = 0.4
    truth = kid(rng.normal(size=(3000, 16)), rng.normal(size=(3000, 16)) + shift).mean
    same, held = [], 0
    for _ in range(300):
        a, b = rng.normal(size=(2, 16, 16))
        same.append(kid(a, b).mean)
        found = kid(a, b + shift)
        held += found.low <= truth <= found.high
    assert abs(np.mean(same)) < 3 * np.std(same) / np.sqrt(300)
    assert held / 300 > 0.92


@pytest.mark.parametrize("metric", [kid, fid])
def test_what_makes_no_sense_is_refused(metric: object) -> None:
    assert callable(metric)
    good = np.ones((5, 4))
    for bad in (np.ones((5, 3)), np.ones(4), np.ones((1, 4)), np.full((5, 4), np.nan)):
        with pytest.raises(ValueError, match=r"features|images"):
            metric(good, bad)
