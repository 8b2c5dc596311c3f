"""Counts of numbers by bins that widen as numbers come in: one pass, little memory, the same result in any order."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

# Bins of the finest histogram that is kept, and of one that is drawn.
KEPT_BINS, DRAWN_BINS = 2048, 48
_SMALLEST_EXPONENT = -40


@dataclass
class Histogram:
    """Finite numbers of a stream. Bin i is [i, i + 1) * 2**exponent; widths are powers of two, so bins merge exactly.

    num_not_finite: numbers that were left out.
    """

    exponent: int = _SMALLEST_EXPONENT
    counts: dict[int, int] = field(default_factory=dict)
    count: int = 0
    num_not_finite: int = 0
    total: float = 0.0
    low: float = math.inf
    high: float = -math.inf

    def add(self, values: NDArray[np.float64]) -> None:
        """Count some numbers."""
        finite = values[np.isfinite(values)]
        self.num_not_finite += len(values) - len(finite)
        if not len(finite):
            return
        self.count += len(finite)
        self.total += math.fsum(finite)
        self.low, self.high = min(self.low, float(finite.min())), max(self.high, float(finite.max()))
        self.widen(exponent_for(self.low, self.high, KEPT_BINS))
        bins, counts = np.unique(np.floor(np.ldexp(finite, -self.exponent)).astype(np.int64), return_counts=True)
        for each, count in zip(bins.tolist(), counts.tolist(), strict=True):
            self.counts[each] = self.counts.get(each, 0) + count

    def widen(self, exponent: int) -> None:
        """Merge bins until they are 2**exponent wide; narrower than they are they cannot become."""
        if exponent <= self.exponent:
            return
        merged: dict[int, int] = {}
        for each, count in self.counts.items():
            wide = each >> (exponent - self.exponent)
            merged[wide] = merged.get(wide, 0) + count
        self.exponent, self.counts = exponent, merged

    @property
    def mean(self) -> float:
        """Mean of all finite numbers; NaN of none."""
        return self.total / self.count if self.count else math.nan

    def quantile(self, share: float) -> float:
        """Return the middle of the bin that holds this quantile, within what was seen: exact to half a bin's width."""
        wanted, seen = share * self.count, 0
        for each in sorted(self.counts):
            seen += self.counts[each]
            if seen >= wanted:
                return min(max(math.ldexp(each + 0.5, self.exponent), self.low), self.high)
        return math.nan

    def bins(self, exponent: int) -> list[tuple[float, float, int]]:
        """Return low end, high end and count of the bins of width 2**exponent that are not empty."""
        wide = Histogram(self.exponent, dict(self.counts))
        wide.widen(exponent)
        width = wide.exponent
        return [
            (math.ldexp(each, width), math.ldexp(each + 1, width), wide.counts[each]) for each in sorted(wide.counts)
        ]


def exponent_for(low: float, high: float, num_bins: int) -> int:
    """Return the smallest exponent with which at most `num_bins` bins reach from `low` to `high`."""
    exponent = _SMALLEST_EXPONENT
    if high > low:
        exponent = max(exponent, math.floor(math.log2((high - low) / num_bins)))
    largest = max(abs(low), abs(high))
    if largest:
        # Numbers that differ by less than a double can tell need no bins between them.
        exponent = max(exponent, math.frexp(largest)[1] - 52)
    while math.floor(math.ldexp(high, -exponent)) - math.floor(math.ldexp(low, -exponent)) >= num_bins:
        exponent += 1
    return exponent


def drawn_exponent(histograms: Iterable[Histogram], num_bins: int = DRAWN_BINS) -> int:
    """Return the width, as an exponent, in which all of these are drawn side by side."""
    kept = [histogram for histogram in histograms if histogram.count]
    if not kept:
        return 0
    low, high = min(each.low for each in kept), max(each.high for each in kept)
    if low == high:
        # A single value: a bin that can be seen beside it.
        return max(math.frexp(abs(low))[1] - 5 if low else -5, *(each.exponent for each in kept))
    return max(exponent_for(low, high, num_bins), *(each.exponent for each in kept))


def histogram_of(values: Sequence[float]) -> Histogram:
    """Return the histogram of some numbers."""
    histogram = Histogram()
    histogram.add(np.asarray(values, dtype=np.float64))
    return histogram
