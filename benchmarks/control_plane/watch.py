"""What is seen of a run from outside: steps and shards by its events, memory of the driver by the clock."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wrpo_ray.events import Event, ShardDone, StepBegan, StepEnded

_MIB = 2**20


def memory_mib() -> dict[str, float]:
    """Return what this process holds: its own pages, and all that are mapped (Ray's shared memory among them)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    values = {name: value for name, _, value in (line.partition(":") for line in lines)}
    return {
        "anonymous": int(values["RssAnon"].split()[0]) * 1024 / _MIB,
        "resident": int(values["VmRSS"].split()[0]) * 1024 / _MIB,
    }


@dataclass
class Watch:
    """Listens to a run, and looks at this process once a second."""

    samples_per_prompt: int
    started: float = field(default_factory=time.monotonic)
    num_responses: int = 0
    rows: Counter[str] = field(default_factory=Counter)
    spans: dict[str, list[float]] = field(default_factory=dict)
    memory: list[dict[str, float]] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)

    def hear(self, step: str, event: Event) -> None:
        """See events.Listener."""
        now = round(time.monotonic() - self.started, 3)
        if isinstance(event, StepBegan):
            self.spans[step] = [now, now]
        elif isinstance(event, ShardDone):
            self.rows[step] += event.num_rows
            if step.startswith("sample-"):
                self.num_responses += event.num_rows * self.samples_per_prompt
        elif isinstance(event, StepEnded):
            self.spans[step][1] = now

    def start(self) -> None:
        threading.Thread(target=self._look, daemon=True).start()

    def stop(self) -> None:
        self._ended.set()

    def _look(self) -> None:
        while not self._ended.wait(1.0):
            now = round(time.monotonic() - self.started, 1)
            self.memory.append({"seconds": now, "num_responses": self.num_responses, **memory_mib()})

    def stages(self) -> list[dict[str, Any]]:
        """Return per kind of step: how many, seconds that any of them was at work, rows."""
        kinds = ("prompts", "sample", "score", "select_sft", "fuse")
        return [self._stage(kind, [name for name in self.spans if name.split("-")[0] == kind]) for kind in kinds]

    def _stage(self, kind: str, names: list[str]) -> dict[str, Any]:
        factor = self.samples_per_prompt if kind == "sample" else 1
        rows = sum(self.rows[name] for name in names) * factor
        seconds = _covered([self.spans[name] for name in names])
        return {"stage": kind, "num_steps": len(names), "seconds": round(seconds, 2), "rows": rows}


def _covered(spans: list[list[float]]) -> float:
    """Return the seconds that lie in at least one of the spans."""
    total, end = 0.0, float("-inf")
    for first, last in sorted(spans):
        total += max(0.0, last - max(first, end))
        end = max(end, last)
    return total
