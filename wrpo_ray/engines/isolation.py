"""Find the rows that kill an engine: a batch that kills it twice is halved until single rows are left. No processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from wrpo_ray.engines.protocol import SetAside
from wrpo_ray.errors import ModelError

Row = TypeVar("Row")
Outcome = TypeVar("Outcome")
_TRIES = 2
# An engine that cannot even do one of so many single rows is broken; to go on would restart it for every row.
_HOPELESS_ROWS = 4


class BatchFailedError(Exception):
    """A batch killed its engine (`engine_crash`) or made it hang (`engine_timeout`).

    in_company: the engine worked on other batches too, so any of them may be to blame.
    """

    def __init__(self, code: str, error: str, in_company: bool = False) -> None:
        super().__init__(error)
        self.code, self.error, self.in_company = code, error, in_company


def run_isolated(
    rows: Sequence[Row],
    attempt: Callable[[Sequence[Row]], list[Outcome]],
    title: str,
    failed: BatchFailedError | None = None,
) -> list[Outcome | SetAside]:
    """Return one outcome per row, in order; a row that kills the engine by itself is set aside.

    attempt: gives one outcome per row, or raises BatchFailedError. For one such row among n it fails at most
    3 + ceil(log2(n)) times: the whole batch twice, one half of each size once, the row alone twice.
    failed: the first of these failures, when the whole batch has been tried already; in company it says nothing of
    a single row, and is not counted against it.
    Raises ModelError when no batch of whatever size succeeds, and when an attempt gives too many or too few outcomes.
    """
    counted = [failed] if failed and not (failed.in_company and len(rows) == 1) else []
    return _Search(attempt, title).outcomes(rows, failures=counted)


def require_one_each(outcomes: Sequence[object], rows: Sequence[object], title: str) -> None:
    """Raise ModelError unless there is one outcome per row."""
    if len(outcomes) != len(rows):
        raise ModelError(f"{title}: the engine gave {len(outcomes)} results for {len(rows)} rows", code="WRPO-E005")


@dataclass
class _Search(Generic[Row, Outcome]):
    attempt: Callable[[Sequence[Row]], list[Outcome]]
    title: str
    num_done: int = 0
    num_set_aside: int = 0

    def outcomes(
        self, rows: Sequence[Row], failed_before: int = 0, failures: Sequence[BatchFailedError] = ()
    ) -> list[Outcome | SetAside]:
        # A death may have nothing to do with the rows, so the whole batch and a single row get a second chance.
        # A pair needs none: both of its rows get theirs.
        tries = _TRIES if len(rows) == 1 or (failed_before == 0 and len(rows) > 2) else 1
        failures = list(failures)
        while len(failures) < tries:
            try:
                return self._try(rows)
            except BatchFailedError as failure:
                failures.append(failure)
        num_failed = failed_before + len(failures)
        if len(rows) == 1:
            return [self._set_aside(failures[-1], num_failed)]
        middle = (len(rows) + 1) // 2
        return [*self.outcomes(rows[:middle], num_failed), *self.outcomes(rows[middle:], num_failed)]

    def _try(self, rows: Sequence[Row]) -> list[Outcome | SetAside]:
        outcomes = self.attempt(rows)
        require_one_each(outcomes, rows, self.title)
        self.num_done += len(rows)
        return list(outcomes)

    def _set_aside(self, failure: BatchFailedError, num_failed: int) -> SetAside:
        self.num_set_aside += 1
        if self.num_set_aside == _HOPELESS_ROWS and self.num_done == 0:
            raise ModelError(
                f"{self.title}: the engine starts, but {_HOPELESS_ROWS} rows were tried one by one and each ended it; "
                f"last error: {failure.error}",
                code="WRPO-E003",
                help="see the Ray logs of the replica; less engine.max_num_seqs or max_model_len needs less memory",
            )
        return SetAside(failure.code, failure.error, num_failed)
