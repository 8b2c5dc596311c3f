"""One time budget per storage call: try again what may pass, say what is waited for, count it, and stop in time."""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from wrpo_ray.errors import ConfigError, StorageError

log = logging.getLogger(__name__)

_Result = TypeVar("_Result")
_QUIET_TRIES = 2
BUDGET_VARIABLE = "WRPO_RAY_STORAGE_BUDGET_S"
TIMEOUT_VARIABLE = "WRPO_RAY_STORAGE_TIMEOUT_S"


@dataclass(frozen=True)
class RetryPolicy:
    """How long a storage call may take.

    budget_s: no try begins later than this after the first one. request_timeout_s: a request that gets no byte for so
    long has failed; so a call ends at the latest after both. Waits double from first_wait_s to longest_wait_s, each
    shortened at random by up to a half. A call that lasts longer than notice_after_s is reported, again and again.
    """

    budget_s: float = 60.0
    request_timeout_s: float = 30.0
    first_wait_s: float = 0.1
    longest_wait_s: float = 5.0
    notice_after_s: float = 10.0

    def wait_s(self, tries: int) -> float:
        """Return how long to wait after so many tries."""
        longest = min(self.longest_wait_s, self.first_wait_s * 2 ** min(tries - 1, 30))
        return longest * random.uniform(0.5, 1.0)


def policy_of_environment() -> RetryPolicy:
    """Return the policy with WRPO_RAY_STORAGE_BUDGET_S and WRPO_RAY_STORAGE_TIMEOUT_S in place of its defaults."""
    default = RetryPolicy()
    return RetryPolicy(
        budget_s=_seconds(BUDGET_VARIABLE, default.budget_s),
        request_timeout_s=_seconds(TIMEOUT_VARIABLE, default.request_timeout_s),
    )


def _seconds(name: str, default: float) -> float:
    text = os.environ.get(name, "")
    try:
        value = float(text) if text else default
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise ConfigError(f"the environment variable {name} is {text!r}, it must be a number of seconds above 0")
    return value


class TransientError(Exception):
    """A call failed in a way that may pass; its message is the reason. It may have been carried out all the same."""


class _Counts:
    """Retries of this process by operation, since it began."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, name: str) -> None:
        with self._lock:
            self._counts[name] += 1

    def snapshot(self) -> Counter[str]:
        with self._lock:
            return Counter(self._counts)


_counts = _Counts()


def retry_counts() -> Counter[str]:
    """Return how often this process tried each storage operation again; subtract two of them for what lies between."""
    return _counts.snapshot()


def retried(verb: str, uri: str, call: Callable[[], _Result], policy: RetryPolicy, min_tries: int = 1) -> _Result:
    """Return what `call` returns, calling it again while it raises TransientError and the budget lasts.

    min_tries: so many tries are made even when the budget is spent; for calls of which one alone may take longer.
    Raises StorageError that names `uri`, the last reason, and how often and how long it was tried.
    """
    began, tries = time.monotonic(), 0
    while True:
        tries += 1
        try:
            with _notice(verb, uri, policy):
                return call()
        except TransientError as error:
            spent = time.monotonic() - began
            if spent >= policy.budget_s and tries >= min_tries:
                raise _gave_up(verb, uri, error, tries, spent) from error
            wait_s = max(0.0, min(policy.wait_s(tries), max(policy.budget_s - spent, policy.first_wait_s)))
            _report(verb, uri, error, tries, wait_s, policy.budget_s - spent)
            time.sleep(wait_s)


def _report(verb: str, uri: str, error: TransientError, tries: int, wait_s: float, left_s: float) -> None:
    _counts.add(verb)
    level = logging.INFO if tries <= _QUIET_TRIES else logging.WARNING
    log.log(
        level, "storage: %s %s failed (%s); try %d in %.1f s, giving up in %.0f s",
        verb, uri, error, tries + 1, wait_s, max(0.0, left_s),
    )  # fmt: skip


def _gave_up(verb: str, uri: str, error: TransientError, tries: int, spent_s: float) -> StorageError:
    return StorageError(
        f"cannot {verb} {uri}: {error}; tried {tries} times in {spent_s:.1f} s",
        code="WRPO-S003",
        help=f"run the same command again once the store answers; {BUDGET_VARIABLE} sets how long a call is retried",
    )


@contextmanager
def _notice(verb: str, uri: str, policy: RetryPolicy) -> Iterator[None]:
    """Log what is waited for whenever another notice_after_s has passed."""
    done = threading.Event()
    began = time.monotonic()

    def remind() -> None:
        while not done.wait(policy.notice_after_s):
            log.warning("storage: waiting for %s %s since %.0f s", verb, uri, time.monotonic() - began)

    # A timer costs its thread only a moment: nearly all calls end long before it fires.
    timer = threading.Thread(target=remind, name="storage-notice", daemon=True)
    timer.start()
    try:
        yield
    finally:
        done.set()
