"""Steps side by side in threads, without Ray: what runs when, what an error does, and what is told to stop."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import pytest

from wrpo_ray.claims import Claim, StepStoppedError, current_grant, granted, whole_grant
from wrpo_ray.events import StepBegan, emit, listening, within
from wrpo_ray.planning.accelerators import CPU
from wrpo_ray.planning.schedule import Job
from wrpo_ray.scheduling.estimates import left_s, tasks_of
from wrpo_ray.scheduling.nodes import Node, Room
from wrpo_ray.scheduling.policy import Task
from wrpo_ray.scheduling.ray_nodes import alive_nodes, expected_nodes, largest_demands
from wrpo_ray.scheduling.runner import StepRunner
from wrpo_ray.steps import Step, StepResult
from wrpo_ray.storage.location import Location
from wrpo_ray.storage.manifest import Manifest

WAIT_S = 10.0


def nothing(folder: Location) -> StepResult:
    raise AssertionError("the runner calls work_on")


def step(name: str, *inputs: Step, gpus: float = 0.0, most: int = 1, source: str | None = None) -> Step:
    claim = Claim(1, gpus, most=most) if gpus else None
    return Step(name, {}, inputs, nothing, source=source, claim=claim)


def manifest(one: Step) -> Manifest:
    return Manifest(one.name, one.fingerprint, {}, {}, (), {}, {}, 0.0)


class Work:
    """What steps do: each waits until the test lets it end."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.may_end: dict[str, threading.Event] = {}
        self.fails: dict[str, Exception] = {}
        self.changed = threading.Condition()

    def __call__(self, one: Step) -> Manifest:
        with self.changed:
            self.begun.append(one.name)
            self.changed.notify_all()
        grant = current_grant()
        assert grant is not None
        while not self.may_end.setdefault(one.name, threading.Event()).wait(0.01):
            grant.raise_if_stopped()
        if one.name in self.fails:
            raise self.fails[one.name]
        return manifest(one)

    def end(self, *names: str) -> None:
        for name in names:
            self.may_end.setdefault(name, threading.Event()).set()

    def wait_for(self, *names: str) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: set(names) <= set(self.begun), WAIT_S), self.begun


def runner(work: Callable[[Step], Manifest], gpus: int = 2, complete: Sequence[str] = ()) -> StepRunner:
    def fails(one: Step, error: Exception) -> Sequence[Step]:
        raise error

    return StepRunner(work, lambda one: one.name in complete, lambda: [Node("n", 8, gpus)], [], lambda: None, fails)


def in_background(run: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def sources() -> list[Step]:
    prompts = step("prompts")
    drawn = [step(f"sample-{name}", prompts, gpus=1, source=name) for name in "abc"]
    scored = [step(f"score-{name}", one, gpus=1) for name, one in zip("abc", drawn, strict=True)]
    return [prompts, *drawn, *scored, step("select", *scored)]


def test_ready_steps_run_side_by_side_and_a_freed_gpu_starts_the_next_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    # Whoever waited for the next look would wait for longer than the test does.
    monkeypatch.setattr("wrpo_ray.scheduling.runner._LOOK_EVERY_S", 10 * WAIT_S)
    work, found = Work(), {}
    steps = sources()
    thread = in_background(lambda: found.update(runner(work).run(steps)))
    work.end("prompts")
    work.wait_for("sample-a", "sample-b")
    assert "sample-c" not in work.begun
    work.end("sample-a")
    work.wait_for("sample-c")
    # A slow source holds nobody back: c is scored while b still draws.
    work.end("sample-c", "score-a")
    work.wait_for("score-a", "score-c")
    work.end(*(one.name for one in steps))
    thread.join(WAIT_S)
    assert list(found) == [one.name for one in steps], "in their order, whatever ended first"


def test_what_is_complete_needs_no_gpu() -> None:
    work = Work()
    steps = sources()
    thread = in_background(lambda: runner(work, complete=[one.name for one in steps]).run(steps))
    work.end("prompts")
    work.wait_for("sample-a", "sample-b", "sample-c")
    work.end(*(one.name for one in steps))
    thread.join(WAIT_S)
    assert not thread.is_alive()


def test_an_error_ends_the_run_and_stops_what_is_under_way() -> None:
    work = Work()
    work.fails["sample-a"] = ValueError("broken")
    work.end("prompts", "sample-a")
    with pytest.raises(ValueError, match="broken"):
        runner(work).run(sources())
    assert not [one for one in threading.enumerate() if one.name.startswith("step ")]


def test_without_a_broken_source_the_others_go_on_undisturbed() -> None:
    work, found = Work(), {}
    steps = sources()
    prompts, a, b = steps[0], steps[1], steps[2]
    left = [prompts, a, b, steps[4], steps[5], step("select", steps[4], steps[5])]
    work.fails["sample-c"] = ValueError("broken")
    work.end("prompts", "sample-c")
    one = runner(work, gpus=3)
    one.replaced = lambda failed, error: left
    thread = in_background(lambda: found.update(one.run(steps)))
    work.wait_for("sample-a", "sample-b", "sample-c")
    work.end(*(each.name for each in left))
    thread.join(WAIT_S)
    assert list(found) == [each.name for each in left]
    assert work.begun.count("sample-a") == work.begun.count("sample-b") == 1


def test_a_listener_hears_the_steps_in_their_threads() -> None:
    heard = []

    def work(one: Step) -> Manifest:
        with within(one.name):
            emit(StepBegan())
        return manifest(one)

    with listening(lambda name, event: heard.append(name)):
        runner(work).run(sources())
    assert sorted(heard) == sorted(one.name for one in sources())


def test_a_grant_gives_back_what_is_of_no_use() -> None:
    told = []
    grant = whole_grant(Claim(1, 1, most=4))
    grant.changed = lambda: told.append(len(grant.places))
    grant.limit(2)
    assert [grant.start(), grant.start()] == [(), ()]
    assert grant.num_to_start() == 0
    grant.holds([("n",)])
    assert (grant.places, told) == ([("n",)], [2, 1])
    grant.stop()
    with granted(grant), pytest.raises(StepStoppedError):
        grant.raise_if_stopped()


def test_the_plan_says_how_long_steps_take_until_something_is_seen() -> None:
    steps = sources()
    tasks = tasks_of(steps, [Job("sample-a", "H100", 2, 200, 4, start_s=5)])
    assert tasks["sample-a"].work_s == 100
    assert tasks["sample-a"].start_s == 5 + 3, "a replica's process starts before its engine does"
    assert tasks["sample-a"].way_s > tasks["score-a"].way_s > tasks["select"].way_s == 0
    one = Task("one", Claim(1, 1), work_s=100)
    assert left_s(one, 1.0, 1.0, used_s=30) == 70
    # A quarter took 50 s, so three quarters take 150 s, whatever was planned.
    assert left_s(one, 1.0, 0.75, used_s=50) == 150
    # A run that goes on with half of its shards.
    assert left_s(one, 0.5, 0.5, used_s=0) == 50


def test_nodes_are_read_with_their_types_and_the_autoscalers_limit_fills_up() -> None:
    shown = [
        {"NodeID": "a", "Alive": True, "Resources": {"CPU": 8.0, "GPU": 4.0, "accelerator_type:H100": 1.0}},
        {"NodeID": "b", "Alive": False, "Resources": {"CPU": 8.0, "GPU": 4.0}},
        {"NodeID": "c", "Alive": True, "Resources": {"CPU": 2.0}},
    ]
    alive = alive_nodes(shown)
    assert alive == [Node("a", 8, 4, "H100"), Node("c", 2)]
    expected = list(expected_nodes(alive, {"H100": 10, "CPU": 2}, "H100"))
    assert [(node.num_gpus, node.num_cpus, node.accelerator_type) for node in expected] == [
        (4, 8, "H100"),
        (2, 8, "H100"),
    ]
    assert alive_nodes(shown, {"a": 0}) == [Node("c", 2)]


def test_a_node_may_have_two_names_for_its_accelerators() -> None:
    resources = {"CPU": 8.0, "GPU": 8.0, "accelerator_type:A100": 1.0, "accelerator_type:A100-80G": 1.0}
    both = alive_nodes([{"NodeID": "a", "Alive": True, "Resources": resources}])
    for name in ("A100", "A100-80G", None):
        assert Room.of(both).place(Claim(1.0, 8.0, name)) == ("a",)
    assert Room.of(both).place(Claim(1.0, 8.0, "A100-40G")) is None
    # Ray itself says A100 of both kinds; what is there already is not expected once more.
    assert not list(expected_nodes([Node("a", 8, 8, "A100")], {"A100-80G": 8}, "H100"))


def test_what_the_plan_asks_for_at_most_may_come() -> None:
    jobs = [Job("a", "H100", 2.0, 1.0, max_replicas=4), Job("b", "H100", 0.5, 1.0), Job("c", CPU, 4.0, 1.0)]
    assert largest_demands(jobs) == {"H100": 8}
