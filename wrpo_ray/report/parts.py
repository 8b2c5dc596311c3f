"""What a report is made of: charts with their numbers, tables, and sections; plain values that a template shows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["bars", "lines", "histogram", "ranges"]
# More points than a screen has are no use to anybody, and a long run has many.
MOST_POINTS = 240


@dataclass(frozen=True)
class Table:
    """Rows of cells as they are shown; columns of numbers stand to the right. title: None when the chart has one."""

    heading: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    title: str | None = None
    words: str = ""

    @property
    def shown(self) -> Table:
        """The table without columns in which no row says anything; the first one stays."""
        kept = [index for index in range(len(self.heading)) if not index or any(row[index] for row in self.rows)]
        rows = tuple(tuple(row[index] for index in kept) for row in self.rows)
        return Table(tuple(self.heading[index] for index in kept), rows, self.title, self.words)

    @property
    def numeric(self) -> tuple[bool, ...]:
        """Whether each column holds numbers: it does when its first cell that says something begins with one."""
        return tuple(_is_number(next((cell for cell in column if cell), "")) for column in zip(*self.rows, strict=True))


def _is_number(cell: str) -> bool:
    return cell.lstrip("-+").lstrip()[:1].isdigit()


@dataclass(frozen=True)
class Chart:
    """One picture. words: what is to be seen, also for whoever does not see it. data: what report.js draws.

    table: the same numbers, which unfold under the picture. bins: of a histogram, what each bar stands for as well.
    """

    name: str
    title: str
    words: str
    kind: Kind
    data: Mapping[str, Any]
    table: Table
    bins: Table | None = None


@dataclass(frozen=True)
class Section:
    """Charts and tables on one question. short: its name in a list. missing: what is not there, and why, sentences."""

    name: str
    short: str
    title: str
    words: str = ""
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()
    missing: tuple[str, ...] = ()


def number(value: float | None, digits: int = 4) -> str:
    """Return a number as it is shown: whole ones with separators, others with so many digits; nothing for None."""
    if value is None:
        return ""
    if not math.isfinite(value):
        return str(value)
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:.{digits}g}"


def percent(share: float | None) -> str:
    """Return a share in [0, 1] as per cent."""
    return "" if share is None else f"{share:.1%}"


def interval(low: float | None, high: float | None, shown: Any = number) -> str:
    """Return an interval as it is shown, or nothing."""
    return "" if low is None or high is None else f"[{shown(low)}, {shown(high)}]"


def finite(value: Any) -> float | None:
    """Return a number for JSON: None when it is none, or not finite."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        # A whole number that is larger than any float.
        return None


def thinned(points: Sequence[tuple[float, float]], most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """Return at most `most` points: means of as many points each, at the last of their places."""
    if len(points) <= most:
        return list(points)
    size = math.ceil(len(points) / most)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(group[-1][0], math.fsum(y for _, y in group) / len(group)) for group in groups]
