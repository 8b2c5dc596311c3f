"""Errors that a user can act on, each with its exit code.

Each class takes one string, so it survives pickling on the way back from a Ray worker. Exit codes: 0 done, 2 bad
configuration, 3 bad input data, 8 a model that cannot be used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class WrpoError(Exception):
    """Base of every error whose message is meant for the user."""

    exit_code = 1


class ConfigError(WrpoError, ValueError):
    """The configuration cannot be run."""

    exit_code = 2


class DataError(WrpoError, ValueError):
    """Input data or stored data breaks a rule."""

    exit_code = 3


class ModelError(WrpoError, ValueError):
    """A model, tokenizer or reward model cannot do what its place in the run asks of it."""

    exit_code = 8


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
