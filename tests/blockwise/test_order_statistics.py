import numpy as np
import pytest

from pipeline.blockwise.order_statistics import Moments, percentiles

RANDOM = np.random.default_rng(0)
VALUES = {
    "normal": RANDOM.normal(0, 100, 5003),
    "ties": RANDOM.integers(-3, 4, 4000),
    "tiny": RANDOM.normal(0, 1e-40, 999),
    "wide": RANDOM.normal(0, 1, 3001) * 10.0 ** RANDOM.integers(-30, 30, 3001),
    "one": np.array([7.0]),
    "zeros": np.array([-0.0, 0.0, 0.0]),
}


@pytest.mark.parametrize("values", [values.astype(np.float32) for values in VALUES.values()], ids=VALUES)
def test_percentiles_are_exact(values):
    percents = [0, 0.5, 25, 33.3, 50, 99.5, 100]
    found = percentiles(lambda: ((piece, None) for piece in np.array_split(values, 5)), percents)
    np.testing.assert_allclose(found, np.percentile(values.astype(np.float64), percents), rtol=1e-12, atol=1e-300)


def test_values_may_come_with_their_number():
    values, counts = np.array([3.0, -1.0, 2.0, 9.0], np.float32), np.array([2, 5, 0, 4])
    found = percentiles(lambda: [(values, counts)], [0, 40, 60, 100])
    np.testing.assert_allclose(found, np.percentile(np.repeat(values, counts), [0, 40, 60, 100]))


@pytest.mark.parametrize("offset", [0, 1e6])
def test_moments_of_pieces_are_those_of_all(offset):
    values = (RANDOM.normal(0, 1, 10_001) + offset).astype(np.float32)
    moments = Moments()
    for piece in np.array_split(values, 7):
        moments.add(piece)
    moments.add(values[:0])
    wide = values.astype(np.float64)
    assert moments.count == len(values)
    np.testing.assert_allclose([moments.mean, moments.std], [wide.mean(), wide.std()], rtol=1e-11)
    assert (moments.low, moments.high) == (values.min(), values.max())


def test_moments_of_counted_values():
    values, counts = np.array([3.0, -1.0, 100.0], np.float32), np.array([2, 5, 0])
    moments = Moments()
    moments.add(values, counts)
    moments.add(values, counts)
    all_ = np.repeat(values, 2 * counts).astype(np.float64)
    assert (moments.count, moments.low, moments.high) == (14, -1, 3)
    np.testing.assert_allclose([moments.mean, moments.std], [all_.mean(), all_.std()], rtol=1e-12)


def test_equal_values_have_no_deviation():
    moments = Moments()
    for _ in range(3):
        moments.add(np.full(1000, 0.1, np.float32))
    assert moments.std == 0.0
    assert Moments().std == 0.0
