"""What a catalogue of bad inputs is made of: an input, how it is made, and what it gets."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from wrpo_ray.console import run_command

# Does with the input what a user would do, in an empty folder.
Use = Callable[[Path], object]


@dataclass(frozen=True)
class BadInput:
    """One bad input. code: of the error that it gets, or None where it is taken.

    says: a part of the message that names place and rule; of an input that is taken, what becomes of it, in words.
    """

    group: str
    given: str
    use: Use
    code: str | None
    says: str

    @property
    def name(self) -> str:
        return f"{self.group}: {self.given}"


@dataclass(frozen=True)
class Got:
    """Exit code and what was printed for the user."""

    exit_code: int
    shown: str


def tried(bad: BadInput, folder: Path) -> Got:
    """Return what a bad input gets at the boundary where errors become messages and exit codes."""
    with contextlib.redirect_stderr(io.StringIO()) as shown:
        exit_code = run_command(lambda: (bad.use(folder) and 0) or 0)
    return Got(exit_code, shown.getvalue())
