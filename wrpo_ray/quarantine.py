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


class Account:
    """What a step has set aside: how many rows by code, and the first ones that count against the budget."""

    def __init__(self, rows: RowsConfig) -> None:
        self.rows = rows
        self.codes: Counter[str] = Counter()
        self.first_items: list[str] = []

    def add(self, item: str, code: str) -> None:
        """Note one row."""
        self.codes[code] += 1
        if len(self.first_items) < _MAX_NAMED and policy(code, self.rows) == "quarantine":
            self.first_items.append(item)

    def merge(self, codes: Mapping[str, int], first_items: Iterable[str]) -> None:
        """Note the rows of another account."""
        self.codes.update(codes)
        self.first_items = [*self.first_items, *first_items][:_MAX_NAMED]


def require_within_budget(title: str, num_items: int, account: Account) -> None:
    """Raise QuarantineError when more of a step's rows were set aside than the budget allows."""
    rows, allowed = account.rows, budget(account.rows, num_items)
    by_code = {code: count for code, count in sorted(account.codes.items()) if policy(code, rows) == "quarantine"}
    total = sum(by_code.values())
    if total <= allowed:
        return
    codes = ", ".join(f"{count} {code}" for code, count in by_code.items())
    shown = ", ".join(account.first_items)
    more = f" and {total - len(account.first_items)} more" if total > len(account.first_items) else ""
    raise QuarantineError(
        f"{title}: {total} of {num_items} rows were set aside ({codes}), {allowed} are allowed: {shown}{more}",
        code="WRPO-Q001",
        help="see the step's quarantine folder; then repair the cause, or raise rows.max_fraction or rows.max_rows",
    )
