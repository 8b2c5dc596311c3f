"""A run is shown while it works, without Ray: lines in a log, begun and ended with the body, whatever ends it."""

import contextlib
import io
import logging
import os
import pty
import sys
import threading
import time
from pathlib import Path

import pytest

from wrpo_ray.config_file import load_config
from wrpo_ray.events import StepBegan, StepEnded, StepFound, StepsChosen, announce, emit, heard, within
from wrpo_ray.live.metrics import ray_is_connected
from wrpo_ray.live.show import shown
from wrpo_ray.live.state import LiveRun
from wrpo_ray.live.terminal import is_terminal
from wrpo_ray.live.ticking import every

DEMO = Path(__file__).parents[2] / "jobs" / "configs" / "demo.yaml"


def demo(*overrides: str):
    return load_config(str(DEMO), ["run.progress_interval_s=0.05", *overrides])


def test_a_log_has_a_line_for_each_interval_beginning_and_end(caplog):
    with caplog.at_level("INFO", logger="wrpo_ray.live"), shown(demo(), stream=io.StringIO()) as live:
        announce(StepsChosen(("prompts", "sample-neox-verbs"), (), {"reason": "none"}))
        with within("prompts"):
            emit(StepFound(1.0))
        with within("sample-neox-verbs"):
            emit(StepBegan())
            until = time.monotonic() + 5.0
            while len(caplog.records) < 3 and time.monotonic() < until:
                time.sleep(0.01)
            emit(StepEnded(2.0))
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "progress: sample-neox-verbs began"
    assert lines[1] == "progress: 1/2 steps | sample-neox-verbs | 0 GPU-h | time left unknown (none)"
    assert lines[-2:] == ["progress: sample-neox-verbs done in 2.0 s", "progress: 2/2 steps | 0 GPU-h | nothing left"]
    assert live.view().count("done") == 1
    assert not heard()


def test_whatever_ends_the_run_ends_what_shows_it(caplog):
    def interrupted() -> None:
        with shown(demo("run.progress_interval_s=30"), stream=io.StringIO()):
            announce(StepsChosen(("prompts",)))
            raise KeyboardInterrupt

    with caplog.at_level("INFO", logger="wrpo_ray.live"), pytest.raises(KeyboardInterrupt):
        interrupted()
    # The last line tells how far it came.
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == "progress: 0/1 steps | 0 GPU-h | time left unknown (no step that is left is planned)"
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("live-")] == []


def fail(*_: object) -> None:
    raise ZeroDivisionError


def warnings(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def test_an_error_in_a_thread_that_shows_a_run_ends_the_thread(caplog):
    calls = []

    def tick() -> None:
        calls.append(1)
        fail()

    with every(0.01, tick, "test"):
        time.sleep(0.1)
    assert (calls, warnings(caplog)) == ([1], ["what the thread test does failed; the run goes on"])


def test_an_error_in_what_shows_a_run_is_none_of_the_run(caplog, monkeypatch):
    monkeypatch.setattr(LiveRun, "__call__", fail)
    monkeypatch.setattr(LiveRun, "view", fail)

    def run() -> None:
        with shown(demo("run.progress_interval_s=30"), stream=io.StringIO()), within("prompts"):
            emit(StepBegan())
            emit(StepEnded(1.0))
            raise KeyError("the run's own")

    with pytest.raises(KeyError, match="the run's own") as found:
        run()
    assert found.value.__context__ is None
    # Once each, however often.
    assert warnings(caplog) == [
        "the count of what the run has done failed; the run goes on", "the display of the run failed; the run goes on",
    ]  # fmt: skip


def test_a_terminal_that_goes_away_is_none_of_the_run(caplog, monkeypatch):
    leader, follower = pty.openpty()
    stream = open(follower, "w", buffering=1)  # noqa: SIM115  its end fails too
    handler, made = logging.StreamHandler(stream), []
    with monkeypatch.context() as patched:
        patched.setenv("TERM", "xterm")
        patched.setattr(logging.getLogger("wrpo_ray.live"), "handlers", [handler])
        patched.setattr(sys, "stderr", stream)
        with shown(demo(), stream=stream):
            assert handler.stream is not stream
            os.close(leader)
            made.append(1)
        assert (made, handler.stream, sys.stderr) == ([1], stream, stream)
    with contextlib.suppress(OSError):
        stream.close()
    assert "the display of the run failed; the run goes on" in warnings(caplog)


def test_a_file_is_no_terminal_whatever_the_environment_says(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert not is_terminal(io.StringIO())


def test_without_ray_there_are_no_metrics_and_ray_is_not_imported_for_them(monkeypatch):
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    assert not ray_is_connected()
    assert "ray" not in sys.modules
