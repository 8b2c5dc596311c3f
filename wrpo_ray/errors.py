"""Errors that a user can act on, each with its code and its exit code.

Exit codes: 0 done, 2 bad configuration, 3 bad input data, 4 too many rows set aside, 5 the run is held by another
driver, 6 storage cannot be used or holds something else than was written, 7 interrupted, 8 a model that cannot be
used, 70 a bug of this package.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self


class WrpoError(Exception):
    """Base of every error whose message is meant for the user.

    code: as `wrpo-ray explain CODE` knows it. help: what to do next. Both survive pickling on the way from a worker.
    """

    exit_code = 70
    default_code = "WRPO-B001"

    title = ""
    problems: tuple[Problem, ...] = ()

    def __init__(self, message: str, code: str | None = None, help: str | None = None) -> None:
        super().__init__(message)
        self.message, self.code, self.help = message, code or self.default_code, help

    @classmethod
    def of(cls, title: str, problems: Sequence[Problem], help: str | None = None) -> Self:
        """Return an error that stands for one or more problems; its code is the first one's."""
        error = cls(list_problems(title, problems), problems[0].code, help)
        error.title, error.problems = title, tuple(problems)
        return error

    def __reduce__(self) -> tuple[type[WrpoError], tuple[str, str, str | None], dict[str, Any]]:
        state = {"title": self.title, "problems": self.problems}
        return type(self), (self.message, self.code, self.help), state


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
    """One thing that is wrong: where it is, the value found there, the rule that it breaks, and how to repair it.

    code: as `wrpo-ray explain CODE` knows it. excerpt: the lines of the file that it is about, ready to be shown.
    """

    place: str
    value: str
    rule: str
    fix: str
    code: str
    excerpt: str | None = None

    def __str__(self) -> str:
        return f"{self.place}: {self.rule}\n    value: {self.value}\n    fix:   {self.fix}"


def list_problems(title: str, problems: Sequence[Problem]) -> str:
    """Return one message that shows every problem, numbered."""
    lines = [counted(title, len(problems))]
    lines += [f"  {number}. {problem}" for number, problem in enumerate(problems, start=1)]
    return "\n".join(lines)


def counted(title: str, count: int) -> str:
    """Return `title` with the number of its problems."""
    return f"{title}: {count} problem{'' if count == 1 else 's'}"


def render(error: WrpoError) -> str:
    """Return an error as it is shown on a terminal: every problem with code, place, value and help, and their count.

    The form is rustc's, see https://rustc-dev-guide.rust-lang.org/diagnostics.html
    """
    if not error.problems:
        first, *others = error.message.splitlines() or [""]
        lines = [f"error[{error.code}]: {first}", *(f"   {line}".rstrip() for line in others)]
        return "\n".join([*lines, *_help(error.help)])
    blocks = [render_problem(problem) for problem in error.problems]
    if len(error.problems) > 1 or error.help:
        closing = f"error: {counted(error.title, len(error.problems))}"
        blocks.append("\n".join([closing, *_help(error.help)]))
    return "\n\n".join(blocks)


def render_problem(problem: Problem) -> str:
    """Return one problem in the form of `render`."""
    lines = [f"error[{problem.code}]: {problem.rule}", f"  --> {problem.place}"]
    if problem.excerpt:
        lines.append(problem.excerpt)
    return "\n".join([*lines, f"   = value: {problem.value}", *_help(problem.fix)])


def _help(text: str | None) -> list[str]:
    return [f"help: {text}"] if text else []


def own_error(error: BaseException) -> WrpoError | None:
    """Return the WrpoError that a wrapped error was caused by, if there is one.

    Ray wraps what an actor or a training worker raises; what it wraps stands in `cause`, `__cause__`,
    `controller_failure` or `worker_failures` (ray/train/v2/api/exceptions.py), other libraries use ExceptionGroup.
    """
    waiting: list[BaseException] = [error]
    seen: set[int] = set()
    while waiting:
        current = waiting.pop(0)
        if isinstance(current, WrpoError):
            return current
        if id(current) not in seen:
            seen.add(id(current))
            waiting.extend(_wrapped_in(current))
    return None


def _wrapped_in(error: BaseException) -> list[BaseException]:
    failures = getattr(error, "worker_failures", None)
    found = [
        getattr(error, "cause", None),
        error.__cause__,
        getattr(error, "controller_failure", None),
        *(failures.values() if isinstance(failures, dict) else ()),
        *(error.exceptions if isinstance(error, BaseExceptionGroup) else ()),
    ]
    return [each for each in found if isinstance(each, BaseException)]


def raise_own(error: BaseException) -> None:
    """Raise the WrpoError that a wrapped error was caused by, if there is one; see own_error."""
    own = own_error(error)
    if own is not None:
        raise own
