"""Errors that a user can act on, each with its code and its exit code.

Exit codes: 0 done, 2 bad configuration, 3 bad input data, 4 too many rows set aside, 5 the run is held by another
driver, 6 storage cannot be used or holds something else than was written, 7 interrupted, 8 a model that cannot be
used, 70 a bug of this package.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class WrpoError(Exception):
    """Base of every error whose message is meant for the user.

    code: as `wrpo-ray explain CODE` knows it. help: what to do next. Both survive pickling on the way from a worker.
    """

    exit_code = 70
    default_code = "WRPO-B001"

    def __init__(self, message: str, code: str | None = None, help: str | None = None) -> None:
        super().__init__(message)
        self.message, self.code, self.help = message, code or self.default_code, help

    def __reduce__(self) -> tuple[type[WrpoError], tuple[str, str, str | None]]:
        return type(self), (self.message, self.code, self.help)


class ConfigError(WrpoError, ValueError):
    """The configuration cannot be run."""

    exit_code = 2
    default_code = "WRPO-C001"


class DataError(WrpoError, ValueError):
    """Input data breaks a rule."""

    exit_code = 3
    default_code = "WRPO-D001"


class QuarantineError(WrpoError):
    """More rows were set aside than the budget allows."""

    exit_code = 4
    default_code = "WRPO-Q001"


class LeaseError(WrpoError):
    """Another driver holds the run."""

    exit_code = 5
    default_code = "WRPO-L001"


class StorageError(WrpoError):
    """Storage cannot be used, or holds something else than what was written."""

    exit_code = 6
    default_code = "WRPO-S001"


class InterruptedRunError(WrpoError):
    """The run was told to stop; the same command goes on where it stopped."""

    exit_code = 7
    default_code = "WRPO-I001"


class ModelError(WrpoError, ValueError):
    """A model, tokenizer or reward model cannot do what its place in the run asks of it."""

    exit_code = 8
    default_code = "WRPO-M001"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where it is, the value found there, the rule that it breaks, and how to repair it."""

    place: str
    value: str
    rule: str
    fix: str

    def __str__(self) -> str:
        return f"{self.place}: {self.rule}\n    value: {self.value}\n    fix:   {self.fix}"


def list_problems(title: str, problems: Sequence[Problem]) -> str:
    """Return one message that shows every problem, numbered."""
    lines = [f"{title}: {len(problems)} problem{'s' if len(problems) != 1 else ''}"]
    lines += [f"  {number}. {problem}" for number, problem in enumerate(problems, start=1)]
    return "\n".join(lines)


def raise_own(error: BaseException) -> None:
    """Raise the WrpoError that a wrapped error was caused by, if there is one.

    Ray wraps what an actor raises: each layer keeps what it wraps in `cause` or `__cause__`.
    """
    seen: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in seen:
        if isinstance(current, WrpoError):
            raise current
        seen.append(current)
        current = getattr(current, "cause", None) or current.__cause__
