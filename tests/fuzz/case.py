"""What a fuzzed case must end in: a value, or an error that the user can act on; never a traceback."""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy

from wrpo_ray.error_codes import CATALOGUE, EXIT_CODES
from wrpo_ray.errors import WrpoError, render

T = TypeVar("T")

# How many times more cases than in the default suite, and at random; none is the default suite's own, fixed share.
FACTOR = int(os.environ.get("WRPO_FUZZ", "0"))
NUM_CASES: Counter[str] = Counter()
_CHECKS = (HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large)


def fuzzed(share: int, **strategies: SearchStrategy[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that runs a property on `share` cases, on FACTOR times as many with WRPO_FUZZ, and counts."""

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def counted(*arguments: Any, **drawn: Any) -> None:
            NUM_CASES[function.__name__] += 1
            function(*arguments, **drawn)

        chosen = settings(
            max_examples=share * max(1, FACTOR), deadline=None, derandomize=not FACTOR, database=None,
            # Nothing is made smaller: every case is one change to something known, and says which.
            phases=(Phase.generate,), report_multiple_bugs=False, suppress_health_check=_CHECKS,
        )  # fmt: skip
        return chosen(given(**strategies)(counted))

    return decorate


def outcome(function: Callable[[], T]) -> T | WrpoError:
    """Return what `function` returns, or the error that it raises when that is one for the user; others pass."""
    try:
        return function()
    except WrpoError as error:
        check_error(error)
        return error


def check_error(error: WrpoError) -> None:
    """Check that an error is documented, is no bug, and can be shown."""
    codes = {error.code, *(problem.code for problem in error.problems)}
    assert codes <= set(CATALOGUE), codes
    assert not any(code.startswith("WRPO-B") for code in codes), codes
    assert error.exit_code in EXIT_CODES
    text = render(error)
    assert text.startswith("error[WRPO-")
    text.encode("utf-8")
