"""Stops a step as soon as more of its rows were set aside than the config allows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from wrpo_ray.config import RowsConfig
from wrpo_ray.errors import QuarantineError
from wrpo_ray.quarantine import Account, budget, counted, require_within_budget
from wrpo_ray.storage import ledger
from wrpo_ray.storage.location import Location

Judge = Callable[[int, Mapping[str, int]], None]
"""Gets the rows seen so far and those set aside by code; may raise an error that explains more than the budget."""


def no_judge(num_rows: int, codes: Mapping[str, int]) -> None:
    """Leave it to the budget."""


class Budget:
    """Adds up what shards set aside, those of earlier attempts included.

    num_rows: rows of the whole step.
    """

    def __init__(self, title: str, folder: Location, num_rows: int, rows: RowsConfig, judge: Judge = no_judge) -> None:
        self.title, self.folder, self.num_rows, self.rows, self.judge = title, folder, num_rows, rows, judge
        self.num_seen = 0
        self.account = Account(rows)

    def add(self, num_rows: int, set_aside: Iterable[tuple[str, str]]) -> None:
        """Count one shard; raises QuarantineError, or what `judge` raises, when it is one row too many."""
        self.num_seen += num_rows
        for item, code in set_aside:
            self.account.add(item, code)
        if counted(self.account.codes, self.rows) > budget(self.rows, self.num_rows):
            self._write()
            self.close()

    def close(self) -> None:
        """Judge the whole."""
        self.judge(self.num_seen, self.account.codes)
        try:
            require_within_budget(self.title, self.num_rows, self.account)
        except QuarantineError as error:
            place = self.folder / "quarantine"
            raise QuarantineError(
                error.message,
                code=error.code,
                help=f"{place}/*.jsonl lists them with the last error of each; repair the cause, or raise"
                " rows.max_fraction or rows.max_rows",
            ) from error

    def _write(self) -> None:
        """Write the quarantine of the shards that are committed by now, for whoever reads the error."""
        commits = ledger.read_commits(self.folder, sorted(ledger.committed(self.folder)))
        ledger.write_quarantine(self.folder, (commit.quarantined for commit in commits))
