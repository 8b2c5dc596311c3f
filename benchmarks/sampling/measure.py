"""One run of one contestant, in a process of its own: its events, and the CPU time of all its processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from wrpo_ray.engines.vllm_engine import CPU_ENVIRONMENT

# Steady state: neither the first responses, which wait for the first wave, nor the last ones, when the engine drains.
FROM, TO = 0.15, 0.85
_SAMPLE_S = 0.25
_TIMEOUT_S = 400.0
_ERROR_CHARACTERS = 400


@dataclass(frozen=True)
class Run:
    """What one run gave; `error` alone when it failed. Rates in responses/s, times in seconds."""

    contestant: str
    start_up_s: float = 0.0
    steady_per_s: float = 0.0
    whole_per_s: float = 0.0
    """From the moment when the engine was ready to the last response."""
    window_s: float = 0.0
    window_responses: int = 0
    cpu_s_per_response: float = 0.0
    """In the window, of all its processes."""
    num_lost: int = 0
    num_tokens: int = 0
    hit_rate: float | None = None
    error: str = ""


def num_threads() -> int:
    """Return how many threads an engine computes with; Ray would give an actor of one CPU one thread as well."""
    return max(1, (os.cpu_count() or 1) - 1)


def run(contestant: str, folder: Path, place: Path) -> tuple[Run, dict[str, int]]:
    """Run a contestant on the workload in `folder`, and return what it gave, with the digests of its responses."""
    place.unlink(missing_ok=True)
    log = place.with_suffix(".log")
    began = time.monotonic()
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.sampling.contestants", contestant, str(folder), str(place)],
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=os.environ | CPU_ENVIRONMENT | {"VLLM_LOGGING_LEVEL": "WARNING", "OMP_NUM_THREADS": str(num_threads())},
        )
    meter = _CpuMeter(process.pid)
    try:
        process.wait(timeout=_TIMEOUT_S)
    finally:
        meter.stop()
        _end(process)
    events = [json.loads(line) for line in place.read_text().splitlines()] if place.exists() else []
    ends = [event for event in events if event["event"] == "end"]
    if not ends:
        return Run(contestant, error=_last_error(log)), {}
    return _measured(contestant, events, ends[0], began, meter), ends[0]["digests"]


def _measured(
    contestant: str, events: list[dict[str, Any]], end: dict[str, Any], began: float, meter: _CpuMeter
) -> Run:
    ready = next(event["at"] for event in events if event["event"] == "ready")
    points: list[tuple[float, int]] = []
    for event in events:
        if event["event"] == "responses":
            points.append((event["at"], (points[-1][1] if points else 0) + event["n"]))
    last_s, total = points[-1]
    first = next(point for point in points if point[1] >= FROM * total)
    last = [point for point in points if point[1] <= TO * total][-1]
    window_s, done = last[0] - first[0], last[1] - first[1]
    return Run(
        contestant,
        start_up_s=ready - began,
        steady_per_s=done / window_s,
        whole_per_s=total / (last_s - ready),
        window_s=window_s,
        window_responses=done,
        cpu_s_per_response=(meter.at(last[0]) - meter.at(first[0])) / done,
        num_lost=end["num_lost"],
        num_tokens=end["num_tokens"],
        hit_rate=end["hit_rate"],
    )


class _CpuMeter:
    """Adds up the CPU time of a process and all that came from it, also of those that have ended."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._known: dict[tuple[int, float], tuple[psutil.Process, float]] = {}
        self._readings: list[tuple[float, float]] = [(time.monotonic(), 0.0)]
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def at(self, moment: float) -> float:
        """Return the CPU seconds up to a time of time.monotonic()."""
        before = [reading for reading in self._readings if reading[0] <= moment][-1]
        after = next((reading for reading in self._readings if reading[0] > moment), before)
        share = (moment - before[0]) / (after[0] - before[0]) if after != before else 0.0
        return before[1] + share * (after[1] - before[1])

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._stopped.wait(_SAMPLE_S):
            try:
                found = [self._root, *self._root.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            for process in found:
                self._known.setdefault((process.pid, process.create_time()), (process, 0.0))
            for key, (process, seconds) in self._known.items():
                self._known[key] = (process, max(seconds, _cpu_s(process)))
            self._readings.append((time.monotonic(), sum(seconds for _, seconds in self._known.values())))


def _cpu_s(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return times.user + times.system


def _end(process: subprocess.Popen[bytes]) -> None:
    """End what a contestant that hangs has started; one that has ended by itself leaves nothing."""
    if process.poll() is None:
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
        process.kill()
        process.wait()


def _last_error(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if "Error" in line]
    return (lines or ["it ended without a word"])[-1][:_ERROR_CHARACTERS]
