"""Distributions side by side: one small histogram per name, all with the same bins."""

from __future__ import annotations

from collections.abc import Mapping

from wrpo_ray.report.histogram import Histogram, drawn_exponent
from wrpo_ray.report.parts import Chart, Table, number

_QUANTILES = (0.1, 0.5, 0.9)
# Bars may be narrow beside where they stand.
_EDGE_DIGITS = 9


def distributions(
    name: str, title: str, words: str, x: str, histograms: Mapping[str, Histogram], colours: Mapping[str, int]
) -> Chart:
    """Return a chart of one histogram per name; heights are shares of that name's own numbers."""
    exponent = drawn_exponent(histograms.values())
    series = [
        {
            "name": label,
            "colour": colours[label],
            "mean": histogram.mean,
            "bins": [[low, high, count / histogram.count] for low, high, count in histogram.bins(exponent)],
        }
        for label, histogram in histograms.items()
    ]
    data = {"series": series, "x": x}
    return Chart(name, title, words, "histogram", data, _table(histograms), _bins(histograms, exponent))


def _bins(histograms: Mapping[str, Histogram], exponent: int) -> Table:
    """Return how many numbers each bar stands for."""
    counts: dict[tuple[float, float], dict[str, int]] = {}
    for label, histogram in histograms.items():
        for low, high, count in histogram.bins(exponent):
            counts.setdefault((low, high), {})[label] = count
    rows = tuple(
        (number(low, _EDGE_DIGITS), number(high, _EDGE_DIGITS), *(number(of_bin.get(label, 0)) for label in histograms))
        for (low, high), of_bin in sorted(counts.items())
    )
    return Table(("from", "to, not included", *histograms), rows, words="How many numbers lie in each bar:")


def _table(histograms: Mapping[str, Histogram]) -> Table:
    heading = ("of", "numbers", "mean", "lowest", "10 %", "median", "90 %", "highest", "not finite")
    rows = [
        (
            label, number(each.count), number(each.mean), number(each.low),
            *(number(each.quantile(share)) for share in _QUANTILES), number(each.high), number(each.num_not_finite),
        )
        for label, each in histograms.items()
    ]  # fmt: skip
    return Table(heading, tuple(rows))
