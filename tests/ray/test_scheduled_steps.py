"""Steps side by side on real pools: they overlap, grow into what is free, and hold nobody back."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import ray

from tests.faults.sleeping_worker import sleeping_step
from wrpo_ray.events import Event, ReplicasChanged, ShardDone, StepBegan, StepEnded, listening
from wrpo_ray.planning.schedule import Job
from wrpo_ray.scheduling.ray_nodes import alive_nodes
from wrpo_ray.scheduling.runner import StepRunner
from wrpo_ray.steps import Step, execute
from wrpo_ray.storage import ledger
from wrpo_ray.storage.location import locate
from wrpo_ray.storage.manifest import RunLayout

pytestmark = pytest.mark.usefixtures("local_ray")


class Heard:
    """Events with their times."""

    def __init__(self) -> None:
        self.rows: list[tuple[float, str, Event]] = []

    def __call__(self, step: str, event: Event) -> None:
        self.rows.append((time.monotonic(), step, event))

    def at(self, step: str, kind: type[Event]) -> float:
        return next(at for at, name, event in self.rows if name == step and isinstance(event, kind))


def run(folder: Path, steps: Sequence[Step], planned: Sequence[Job] = ()) -> Heard:
    def fails(step: Step, error: Exception) -> Sequence[Step]:
        raise error

    layout, heard = RunLayout(locate(str(folder))), Heard()
    runner = StepRunner(
        lambda step: execute(step, layout, {}), lambda step: False, lambda: alive_nodes(ray.nodes()), planned,
        lambda: None, fails,
    )  # fmt: skip
    with listening(heard):
        runner.run(steps)
    return heard


def test_a_slow_source_holds_back_neither_commits_nor_scoring_and_grows_when_room_is_free(tmp_path: Path) -> None:
    # Long enough for two pools to start and end beside it on a machine that is busy.
    slow = sleeping_step("sample-slow", (), num_shards=24, seconds=1.5, num_replicas=4)
    fast = sleeping_step("sample-fast", (), num_shards=3, seconds=0.1, num_replicas=1)
    scored = sleeping_step("score-fast", (fast,), num_shards=2, seconds=0.1, num_replicas=1)
    heard = run(tmp_path, [slow, fast, scored])
    assert heard.at("sample-fast", StepBegan) < heard.at("sample-slow", ShardDone), "they run side by side"
    assert heard.at("score-fast", StepEnded) < heard.at("sample-slow", StepEnded)
    sizes = [
        (event.num_replicas)
        for _, name, event in heard.rows
        if isinstance(event, ReplicasChanged) and name == "sample-slow"
    ]
    assert max(sizes) >= 3, "it took what the others left"
    assert sizes[-1] == 0
    # All is given back.
    until = time.monotonic() + 10
    while ray.available_resources().get("CPU") != 4:
        assert time.monotonic() < until
        time.sleep(0.05)


def test_an_error_stops_the_others_soon_and_keeps_their_commits(tmp_path: Path) -> None:
    long = sleeping_step("long", (), num_shards=200, seconds=0.3, num_replicas=2)
    broken = sleeping_step("broken", (), num_shards=1, seconds=1.0, num_replicas=1)
    layout = RunLayout(locate(str(tmp_path)))

    def fail_later() -> None:
        while not ledger.committed(long.folder(layout)):
            time.sleep(0.05)
        raise ValueError("broken")

    broken = Step(broken.name, {}, (), lambda folder: fail_later(), claim=broken.claim)  # pyright: ignore[reportArgumentType]
    began = time.monotonic()
    with pytest.raises(ValueError, match="broken"):
        run(tmp_path, [long, broken])
    assert time.monotonic() - began < 30
    assert 1 <= len(ledger.committed(long.folder(layout))) < 200
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("step ")]
