"""Tells how many cases were run, and fails a long run of too few."""

from collections.abc import Iterator

import pytest

from tests.fuzz.case import FACTOR, NUM_CASES

MIN_LONG_CASES = 5000


@pytest.fixture(autouse=True, scope="session")
def _no_waiting_for_the_disk() -> Iterator[None]:
    """Cases write thousands of small files, and no power fails between them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda descriptor: None)
        yield


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if NUM_CASES:
        terminalreporter.write_line(f"fuzz: {NUM_CASES.total()} cases of {len(NUM_CASES)} properties")


def pytest_sessionfinish(session: pytest.Session) -> None:
    if FACTOR and not session.config.option.keyword and 0 < NUM_CASES.total() < MIN_LONG_CASES:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
