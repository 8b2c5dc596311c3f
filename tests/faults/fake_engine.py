"""Engines without a model: pure functions of (model, prompt, seed), with faults that a test puts into a folder.

<folder>/faults/<prompt_id>.json   {"kind": ..., "times": n}: what befalls a batch with this prompt, the first n times
<folder>/faults/start.json         the same for the start of an engine
<folder>/log.jsonl                 one line per start and per batch, so that a test can count both
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wrpo_ray.config import ModelConfig, RewardConfig
from wrpo_ray.engines.protocol import Answer, BatchDone, BatchRefused, Progress, SetAside
from wrpo_ray.engines.requests import sample_indices
from wrpo_ray.engines.vllm_generator import request_seed
from wrpo_ray.errors import ModelError
from wrpo_ray.schema import Prompt, Response, ResponseWithLogps, stable_hash

START = "start"
ALWAYS = 10**9


@dataclass(frozen=True)
class FaultFolder:
    """What goes wrong, and what has happened; seen by test and engines alike."""

    path: Path

    def plan(self, name: str, kind: str, times: int = ALWAYS, seconds: float = 0.0) -> None:
        """Let `kind` happen to `name` (a prompt_id, or START) the first `times` times."""
        (self.path / "faults").mkdir(parents=True, exist_ok=True)
        text = json.dumps({"kind": kind, "times": times, "seconds": seconds})
        (self.path / "faults" / f"{name}.json").write_text(text)

    def due(self, name: str) -> dict[str, Any] | None:
        """Return the fault of `name` if it still has to happen, and count it."""
        place = self.path / "faults" / f"{name}.json"
        if not place.exists():
            return None
        fault = json.loads(place.read_text())
        with place.with_suffix(".count").open("ab") as stream:
            stream.write(b"x")
            return fault if stream.tell() <= fault["times"] else None

    def note(self, event: str, **values: Any) -> None:
        """Append one line to the log; O_APPEND keeps lines of several processes whole."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "log.jsonl").open("ab") as stream:
            stream.write((json.dumps({"event": event, "at": time.time(), **values}) + "\n").encode())

    def events(self, event: str) -> list[dict[str, Any]]:
        """Return what was noted under `event`."""
        place = self.path / "log.jsonl"
        lines = place.read_text().splitlines() if place.exists() else []
        return [row for row in map(json.loads, lines) if row["event"] == event]


class _Fake:
    """Starts, notes what it does, and fails as planned."""

    def __init__(self, folder: str) -> None:
        self.faults = FaultFolder(Path(folder))
        self.helper: subprocess.Popen[bytes] | None = None
        self.faults.note("start", pid=os.getpid(), actor=os.getppid())
        if fault := self.faults.due(START):
            self._fail(fault, START)
        if (self.faults.path / "with_helper").exists():
            self.helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            self.faults.note("helper", pid=self.helper.pid)

    def is_usable(self) -> bool:
        return self.helper is None or self.helper.poll() is None

    def close(self) -> None:
        self.faults.note("close", pid=os.getpid())
        if self.helper is not None:
            self.helper.kill()

    def work(self, ids: Sequence[str], progress: Progress) -> dict[str, str]:
        """Return the faults of values by id, after those that concern the process have happened."""
        self.faults.note("batch", ids=list(ids), pid=os.getpid())
        of_values = {}
        for name in ids:
            progress()
            if fault := self.faults.due(name):
                if fault["kind"] in ("wrong_count", "nan", "inf", "text", "too_long"):
                    of_values[name] = fault["kind"]
                else:
                    self._fail(fault, name)
            if not self.is_usable():
                raise RuntimeError("EngineDeadError: the helper is gone")
        return of_values

    def _fail(self, fault: dict[str, Any], name: str) -> None:
        match fault["kind"]:
            case "crash":
                print(f"RuntimeError: CUDA error at {name}", file=sys.stderr, flush=True)
                os._exit(1)
            case "hang":
                time.sleep(3600)
            case "slow":
                time.sleep(fault["seconds"])
            case "raise":
                raise RuntimeError(f"no luck with {name}")
            case "refuse":
                raise ModelError(f"cannot load {name}", code="WRPO-M001")
            case other:
                raise AssertionError(other)


class FakeGenerator(_Fake):
    """Satisfies engines.protocol.Generator."""

    with_logps = False

    def __init__(self, folder: str, model: ModelConfig, run_seed: int, identity: str, with_logps: bool = False) -> None:
        super().__init__(folder)
        self.model, self.run_seed, self.identity, self.with_logps = model, run_seed, identity, with_logps

    def generate(self, prompts: Sequence[Prompt], progress: Progress) -> list[list[Response] | SetAside]:
        faults = self.work([prompt.prompt_id for prompt in prompts], progress)
        return [self._drawn(prompt, faults.get(prompt.prompt_id)) for prompt in prompts]

    def _drawn(self, prompt: Prompt, fault: str | None) -> list[Response] | SetAside:
        if fault == "too_long":
            return SetAside("prompt_too_long", "99 tokens, 9 leave room for an answer")
        indices = sample_indices(prompt, self.model.sampling.num_samples)
        return [self._response(prompt.prompt_id, index) for index in indices[: len(indices) - (fault == "wrong_count")]]

    def _response(self, prompt_id: str, index: int) -> Response:
        seed = request_seed(self.run_seed, prompt_id, self.identity, index)
        token_ids = [seed % 97, seed % 89, seed % 83]
        values = (prompt_id, self.model.name, index, f"{self.model.name} says {seed}", token_ids, "stop", 3)
        return ResponseWithLogps(*values, logps=-float(seed % 79)) if self.with_logps else Response(*values)


class FakeStreamingGenerator(FakeGenerator):
    """Satisfies engines.protocol.StreamingEngine: each step works on one prompt of every batch that is there.

    A batch is begun when <folder>/hold is gone, so that a test can have several at once.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.batches: dict[int, tuple[Sequence[Prompt], list[list[Response] | SetAside]]] = {}

    def prepared(self, rows: Sequence[Prompt]) -> Sequence[Prompt]:
        if any(prompt.messages[0]["content"] == "unpreparable" for prompt in rows):
            raise ValueError("no template for it")
        return rows

    def add(self, number: int, prepared: Sequence[Prompt]) -> None:
        self.faults.note("added", number=number, num_there=len(self.batches))
        self.batches[number] = (prepared, [])

    def is_busy(self) -> bool:
        return bool(self.batches)

    def step(self) -> list[BatchDone | BatchRefused]:
        if (self.faults.path / "hold").exists():
            time.sleep(0.01)
            return []
        for prompts, outcomes in self.batches.values():
            outcomes += self.generate(prompts[len(outcomes) : len(outcomes) + 1], lambda: None)
        ended = [number for number, (prompts, outcomes) in self.batches.items() if len(outcomes) == len(prompts)]
        return [BatchDone(number, self.batches.pop(number)[1], {"num_done": 1}) for number in ended]


class FakeScorer(_Fake):
    """Satisfies engines.protocol.Scorer; a reward follows from the text."""

    def __init__(self, folder: str, reward: RewardConfig) -> None:
        super().__init__(folder)

    def score(self, answers: Sequence[Answer], progress: Progress) -> list[float | SetAside]:
        faults = self.work([answer.prompt.prompt_id for answer in answers], progress)
        if "wrong_count" in faults.values():
            return [0.0] * (len(answers) - 1)
        wrong: dict[str, Any] = {
            "nan": math.nan, "inf": math.inf, "text": "good", "too_long": SetAside("answer_too_long", "99 tokens"),
        }  # fmt: skip
        return [
            wrong[faults[answer.prompt.prompt_id]] if answer.prompt.prompt_id in faults else self._reward(answer.text)
            for answer in answers
        ]

    def _reward(self, text: str) -> float:
        return 0.5 if (self.faults.path / "constant").exists() else stable_hash(text) / 2**64


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
    """Wait for a state, never for a time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s} s for: {what}"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Tell whether a process is there and no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
