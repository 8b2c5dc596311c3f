"""Rows that have no result: which of them count against the budget, and when a step must stop because of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping

from wrpo_ray.config import RowsConfig
from wrpo_ray.errors import QuarantineError

_MAX_NAMED = 10


def policy(code: str, rows: RowsConfig) -> str:
    """Return what becomes of rows with `code`: as the config says, and `quarantine` where it has no say."""
    return str(getattr(rows, code, "quarantine"))


def budget(rows: RowsConfig, num_items: int) -> int:
    """Return how many of a step's `num_items` rows may be set aside."""
    of_share = math.floor(rows.max_fraction * num_items)
    return of_share if rows.max_rows is None else min(of_share, rows.max_rows)


def counted(codes: Mapping[str, int], rows: RowsConfig) -> int:
    """Return how many of the rows with these codes count against the budget."""
    return sum(count for code, count in codes.items() if policy(code, rows) == "quarantine")


def require_within_budget(title: str, num_items: int, set_aside: Iterable[tuple[str, str]], rows: RowsConfig) -> None:
    """Raise QuarantineError when more of a step's rows were set aside than the budget allows.

    set_aside: (item, code) of every row without a result.
    """
    pairs = [(item, code) for item, code in set_aside if policy(code, rows) == "quarantine"]
    allowed = budget(rows, num_items)
    if len(pairs) <= allowed:
        return
    by_code = ", ".join(f"{count} {code}" for code, count in sorted(Counter(code for _, code in pairs).items()))
    shown = ", ".join(item for item, _ in pairs[:_MAX_NAMED])
    more = f" and {len(pairs) - _MAX_NAMED} more" if len(pairs) > _MAX_NAMED else ""
    raise QuarantineError(
        f"{title}: {len(pairs)} of {num_items} rows were set aside ({by_code}), {allowed} are allowed: {shown}{more}",
        code="WRPO-Q001",
        help="see the step's quarantine folder; then repair the cause, or raise rows.max_fraction or rows.max_rows",
    )
