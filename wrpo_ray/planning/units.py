"""Numbers as they are shown, and columns of them."""

from __future__ import annotations

from collections.abc import Sequence

_PREFIXES = ((1e24, "Y"), (1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def short(number: float) -> str:
    """Return a number with three digits and a prefix: 27.0M."""
    for size, prefix in _PREFIXES:
        if abs(number) >= size * 0.9995:
            return f"{_three(number / size)}{prefix}"
    return _three(number) if number else ""


def _three(number: float) -> str:
    return f"{number:.0f}" if number >= 99.95 else f"{number:.1f}" if number >= 9.995 else f"{number:.2f}"


def span(seconds: float) -> str:
    """Return a duration in one unit: 52 s, 3.4 min, 5.68 h, 4.1 d."""
    if seconds < 99.5:
        return f"{seconds:.0f} s" if seconds >= 9.95 else f"{seconds:.1f} s"
    if seconds < 5940:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.2f} h" if seconds < 99 * 3600 else f"{seconds / 86_400:.1f} d"


def money(amount: float | None, currency: str) -> str:
    """Return an amount, or nothing when there is no price."""
    return "" if amount is None else f"{amount:,.2f} {currency}"


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as aligned columns, the first to the left, and without columns that are empty below the heading."""
    if len(rows) < 2:
        return ""
    kept = [column for column in zip(*rows, strict=True) if any(column[1:])]
    widths = [max(map(len, column)) for column in kept]
    lines = []
    for row in zip(*kept, strict=True):
        first, *others = (
            cell.ljust(width) if number == 0 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join((first, *others)).rstrip())
    return "\n".join(lines)
