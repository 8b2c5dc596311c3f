"""Histograms that widen as numbers come in: exact counts, whatever the order and the pieces."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wrpo_ray.report.histogram import DRAWN_BINS, KEPT_BINS, Histogram, drawn_exponent, exponent_for, histogram_of


def test_by_hand() -> None:
    histogram = histogram_of([0.0, 0.1, 0.3, 1.0, math.nan, math.inf, -0.2])
    assert (histogram.count, histogram.num_not_finite) == (5, 2)
    assert (histogram.low, histogram.high, histogram.mean) == (-0.2, 1.0, pytest.approx(0.24))
    # Bins of a half: [-0.5, 0) has -0.2; [0, 0.5) has 0, 0.1, 0.3; [1, 1.5) has 1.
    assert histogram.bins(-1) == [(-0.5, 0.0, 1), (0.0, 0.5, 3), (1.0, 1.5, 1)]
    assert histogram.quantile(0.5) == pytest.approx(0.1, abs=1e-3)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60), st.randoms(use_true_random=False))
def test_order_and_pieces_do_not_matter(values: list[float], random: object) -> None:
    whole, pieces = histogram_of(values), Histogram()
    shuffled = list(values)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for start in range(0, len(shuffled), 7):
        pieces.add(np.asarray(shuffled[start : start + 7]))
    assert (whole.exponent, whole.counts, whole.low, whole.high) == (
        pieces.exponent, pieces.counts, pieces.low, pieces.high,
    )  # fmt: skip
    assert sum(whole.counts.values()) == len(values)
    assert len(whole.counts) <= KEPT_BINS
    drawn = whole.bins(drawn_exponent([whole]))
    assert sum(count for _, _, count in drawn) == len(values)
    assert len(drawn) <= DRAWN_BINS


def test_as_numpy_counts() -> None:
    values = np.random.default_rng(0).normal(size=5000)
    histogram = histogram_of(values.tolist())
    bins = histogram.bins(-2)
    edges = [low for low, _, _ in bins] + [bins[-1][1]]
    counts, _ = np.histogram(values, bins=edges)
    assert [count for _, _, count in bins] == counts.tolist()
    assert histogram.quantile(0.9) == pytest.approx(np.quantile(values, 0.9), abs=0.01)


def test_one_value_and_none() -> None:
    same = histogram_of([0.8] * 5)
    (low, high, count), *rest = same.bins(drawn_exponent([same]))
    assert (count, rest) == (5, [])
    # Wide enough to be drawn.
    assert 0.001 < high - low < 1
    assert low <= 0.8 < high
    assert math.isnan(Histogram().mean)
    assert drawn_exponent([Histogram()]) == 0
    assert exponent_for(0.0, 100.0, 100) == 0 or 2.0 ** exponent_for(0.0, 100.0, 100) * 100 >= 100.0
