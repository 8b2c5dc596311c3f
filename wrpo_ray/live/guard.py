"""Keeps the errors of what shows a run away from the run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from types import TracebackType
from typing import Any, ParamSpec

log = logging.getLogger(__name__)
_P = ParamSpec("_P")


class Guard:
    """Ends any error of its body here, in whichever thread: the first one is logged, later ones are silent.

    A context manager is told of every one, so that no `except` has to name them all. What is no `Exception`, such as
    KeyboardInterrupt, passes through. what: the part of the live view that it stands before, for the log.
    """

    def __init__(self, what: str) -> None:
        self.what, self.has_failed = what, False

    def __enter__(self) -> Guard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        is_first, self.has_failed = not self.has_failed, True
        if is_first:
            # The log may lead to the terminal that has just gone.
            with suppress(OSError, ValueError):
                log.warning("%s failed; the run goes on", self.what, exc_info=error)
        return True

    def around(self, function: Callable[_P, object]) -> Callable[_P, None]:
        """Return the function with this guard before it."""

        def guarded(*arguments: _P.args, **named: _P.kwargs) -> None:
            with self:
                function(*arguments, **named)

        return guarded


class Guarded(AbstractContextManager[None]):
    """Another context manager whose own errors, at its beginning and its end, are none of the body's.

    An error of the body passes, whatever becomes of the other at its end.
    """

    def __init__(self, inner: AbstractContextManager[Any], what: str) -> None:
        self._inner, self._guard, self._has_begun = inner, Guard(what), False

    def __enter__(self) -> None:
        with self._guard:
            self._inner.__enter__()
            self._has_begun = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._has_begun:
            with self._guard:
                self._inner.__exit__(kind, error, trace)
