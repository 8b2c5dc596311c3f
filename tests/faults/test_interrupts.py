"""P-30: SIGTERM and SIGINT end a driver with exit code 7 in less than 3 seconds, whatever it is doing."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wrpo_ray.interrupts import GRACE_S, interruptible, rearm

_SCRIPT = """
import ctypes, sys, threading, time
from wrpo_ray.errors import LeaseError, WrpoError
from wrpo_ray.interrupts import interruptible, rearm, stop

def ready():
    print("ready", flush=True)

def waits():
    ready()
    time.sleep(60)

def waits_in_c():
    ready()
    libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
    for _ in range(2):
        libc.pthread_mutex_lock(mutex)

def cleans_up_for_ever():
    try:
        waits()
    finally:
        while True:
            try:
                time.sleep(60)
            except KeyboardInterrupt:
                pass

def swallows():
    ready()
    try:
        time.sleep(60)
    except KeyboardInterrupt as error:
        raise RuntimeError("wrapped by a library") from error

def is_told_to_stop():
    threading.Timer(0.2, stop, [LeaseError("lost", code="WRPO-L002")]).start()
    waits()

def waits_for_ray(take_back=True):
    import ray
    ray.init(address="local", num_cpus=1, include_dashboard=False, object_store_memory=80 << 20)
    if take_back:
        rearm()
    @ray.remote
    def endless():
        time.sleep(600)
    result = endless.remote()
    ready()
    ray.get(result)

def waits_for_ray_with_its_own_handlers():
    waits_for_ray(take_back=False)

try:
    with interruptible():
        globals()[sys.argv[1]]()
except WrpoError as error:
    print(f"ended with {error.code}", flush=True)
    sys.exit(error.exit_code)
"""


def interrupt(what: str, *signals: signal.Signals, pause_s: float = 0.0) -> tuple[int, float, str, str]:
    """Run `what` of the script, send the signals, and return exit code, seconds, stdout and stderr."""
    command = [sys.executable, "-c", _SCRIPT, what]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=pipe, stderr=pipe, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            time.sleep(pause_s)
            began = time.monotonic()
            for number, sent in enumerate(signals):
                time.sleep(0.5 if number else 0)
                process.send_signal(sent)
            process.wait(timeout=20)
            took_s = time.monotonic() - began
            said, complained = process.communicate(timeout=20)
        finally:
            process.kill()
    return process.returncode, took_s, said, complained


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_driver_with_one_line(sent: signal.Signals) -> None:
    code, took_s, said, complained = interrupt("waits", sent)
    assert (code, said) == (7, "ended with WRPO-I001\n")
    assert took_s < 1
    assert complained == f"interrupted by {sent.name}; the same command goes on where it stopped\n"


@pytest.mark.parametrize("what", ["waits_in_c", "cleans_up_for_ever"])
def test_a_driver_that_cannot_react_is_ended_all_the_same(what: str) -> None:
    code, took_s, said, complained = interrupt(what, signal.SIGTERM, pause_s=0.5)
    assert (code, said) == (7, "")
    assert GRACE_S < took_s < GRACE_S + 1
    assert "interrupted by SIGTERM" in complained
    assert "Traceback" not in complained


def test_a_second_signal_ends_it_at_once() -> None:
    code, took_s, _, _ = interrupt("cleans_up_for_ever", signal.SIGTERM, signal.SIGTERM)
    assert code == 7
    assert took_s < 1.5


def test_an_interruption_stays_one_whatever_a_library_makes_of_it() -> None:
    code, _, said, _ = interrupt("swallows", signal.SIGTERM)
    assert (code, said) == (7, "ended with WRPO-I001\n")


def test_a_driver_that_lost_the_run_ends_with_that_code() -> None:
    code, took_s, said, _ = interrupt("is_told_to_stop")
    assert (code, said) == (5, "ended with WRPO-L002\n")
    assert took_s < 2


@pytest.mark.parametrize(
    ("what", "signals"),
    [
        ("waits_for_ray", [signal.SIGTERM]),
        ("waits_for_ray", [signal.SIGTERM, signal.SIGTERM]),
        ("waits_for_ray", [signal.SIGINT]),
        ("waits_for_ray_with_its_own_handlers", [signal.SIGTERM]),
    ],
)
def test_a_driver_that_waits_for_ray_ends_in_time(what: str, signals: list[signal.Signals]) -> None:
    code, took_s, _, complained = interrupt(what, *signals, pause_s=1.0)
    assert code == 7
    assert took_s < 3
    assert f"interrupted by {signals[0].name}; the same command goes on where it stopped" in complained
    # Ray's C++ handler prints one; taking the handlers back keeps it away.
    assert ("*** SIGTERM received" in complained) == (what == "waits_for_ray_with_its_own_handlers")


def test_nothing_of_it_stays_behind() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with interruptible():
        rearm()
        assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] != before
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    rearm()
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    assert signal.set_wakeup_fd(-1) == -1
