"""What a run's events come to: phases, rows, pace, what is held, price; from many threads at once."""

import contextvars
import threading
import time

import pytest

from wrpo_ray.config import PricesConfig
from wrpo_ray.events import (
    ReplicasChanged,
    ShardDone,
    StepBegan,
    StepEnded,
    StepFound,
    StepsChosen,
    TrainingAt,
    WorkBegan,
    announce,
    emit,
    listening,
    within,
)
from wrpo_ray.live.holding import Holding
from wrpo_ray.live.pace import MIN_ARRIVALS, WINDOW_S, Pace
from wrpo_ray.live.state import LiveRun
from wrpo_ray.live.view import StepView

PRICES = PricesConfig.model_validate(
    {"per_hour": {"H100": 3.6}, "per_million_tokens": {"api": {"input": 1.0, "output": 4.0}}}
)
HOLDINGS = {
    "sample-a": Holding("sampling", "H100", 2.0, source="a"),
    "sample-api": Holding("sampling", "CPU", 1.0, source="api", endpoint="api"),
    "score-a": Holding("scoring", "CPU", 0.5, source="a"),
    "sft": Holding("training", "H100", 1.0, num_workers=4),
}


class Clock:
    """Seconds that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def live_run(clock: Clock, *steps: str, only: str | None = None) -> LiveRun:
    live = LiveRun("r", PRICES, HOLDINGS.get, clock, only)
    live("", StepsChosen(steps or ("prompts", *HOLDINGS)))
    return live


def step(live: LiveRun, name: str) -> StepView:
    return next(each for each in live.view().steps if each.name == name)


def test_a_step_goes_through_its_phases():
    clock = Clock()
    live = live_run(clock)
    assert {each.phase for each in live.view().steps} == {"waiting"}
    live("prompts", StepFound(3.0))
    live("sample-a", StepBegan())
    clock.now = 10.0
    live("sample-a", WorkBegan(100, 20, 8))
    live("sample-a", ShardDone(10, 500, 4.0, {"engine_crash": 2}))
    running = step(live, "sample-a")
    assert (running.phase, running.rows_done, running.rows, running.tokens) == ("running", 30, 10, 500)
    assert (running.share, running.set_aside, running.seconds) == (0.3, {"engine_crash": 2}, 10.0)
    live("sample-a", StepEnded(12.5))
    # A later look at a step that this start has made changes nothing.
    live("sample-a", StepFound(12.5))
    assert (step(live, "sample-a").phase, step(live, "sample-a").seconds) == ("done", 12.5)
    assert (step(live, "prompts").phase, step(live, "prompts").seconds) == ("complete before", 3.0)
    assert (live.view().count("waiting"), live.view().count("running")) == (3, 0)


def test_what_a_source_leaves_behind_is_left_out_and_holds_nothing():
    clock = Clock()
    live = live_run(clock, "prompts", "sample-a", "score-a", "fuse")
    live("sample-a", StepBegan())
    live("sample-a", ReplicasChanged(2, 4.0))
    clock.now = 5.0
    live("", StepsChosen(("prompts", "fuse"), ("a",)))
    clock.now = 50.0
    view = live.view()
    assert {each.name: each.phase for each in view.steps} == {
        "prompts": "waiting", "fuse": "waiting", "sample-a": "left out", "score-a": "left out",
    }  # fmt: skip
    assert (view.broken_sources, view.held(gpus=True), view.unit_seconds["H100"]) == (("a",), 0.0, 20.0)


def test_one_step_by_name_is_all_that_is_shown():
    assert [each.name for each in live_run(Clock(), "prompts", "sample-a", "fuse", only="fuse").view().steps] == [
        "fuse"
    ]


def test_accelerator_time_is_the_integral_of_what_is_held():
    clock = Clock()
    live = live_run(clock)
    live("sample-a", StepBegan())
    for now, replicas in ((10.0, 1), (20.0, 3), (50.0, 0), (60.0, 1)):
        clock.now = now
        live("sample-a", ReplicasChanged(replicas, 2.0 * replicas))
    # A second step at the same time; its workers hold theirs from its beginning to its end.
    live("sft", StepBegan())
    clock.now = 100.0
    assert live.view().held(gpus=True) == 2.0 + 4.0
    live("sft", StepEnded(40.0))
    live("sample-a", StepEnded(100.0))
    clock.now = 1000.0
    expected = 10 * 2 + 30 * 6 + 40 * 2 + 40 * 4
    view = live.view()
    assert view.unit_seconds["H100"] == pytest.approx(expected)
    assert view.gpu_hours == pytest.approx(expected / 3600)
    assert (view.price.amount, view.price.without) == (pytest.approx(expected / 1000), ())


def test_cpu_cores_are_counted_apart_and_without_a_price_named():
    clock = Clock()
    live = live_run(clock)
    live("score-a", StepBegan())
    live("score-a", ReplicasChanged(4, 0.0))
    clock.now = 1800.0
    view = live.view()
    assert (view.cpu_hours, view.gpu_hours, view.held(gpus=False)) == (1.0, 0.0, 2.0)
    assert (view.price.amount, view.price.without) == (0.0, ("CPU",))


def test_an_endpoint_is_paid_by_tokens():
    live = live_run(Clock())
    job = {
        "name": "sample-api", "accelerator": "CPU", "gpus_per_replica": 1.0, "gpu_seconds": 60.0, "max_replicas": 1,
        "min_replicas": 1, "start_s": 0.0, "after": [],
    }  # fmt: skip
    stage = {"step": "sample-api", "kind": "sampling", "endpoint": "api", "input_tokens": 2e6, "job": job}
    live("", StepsChosen(("sample-api",), (), {"stages": [stage], "cluster": {"CPU": 1}}))
    live("sample-api", StepBegan())
    live("sample-api", WorkBegan(100, 50, 2))
    live("sample-api", ShardDone(25, 1_000_000, 1.0))
    # A quarter of the planned input tokens, and the output tokens that were drawn.
    assert live.view().price.amount == pytest.approx(0.25 * 2.0 + 4.0)


def test_training_counts_from_where_it_was_found():
    clock = Clock()
    live = live_run(clock)
    live("sft", StepBegan())
    live("sft", TrainingAt(40, 100, 0, {}))
    # The workers take a minute to start: no pace yet, and not in the pace later.
    clock.now = 60.0
    live("sft", TrainingAt(41, 100, 300, {"loss": 2.0}))
    assert (step(live, "sft").rows_per_s, step(live, "sft").rows_done) == (None, 41)
    clock.now = 80.0
    live("sft", TrainingAt(51, 100, 3000, {"loss": 1.0}))
    now = step(live, "sft")
    assert (now.rows, now.rows_done, now.share, now.metrics) == (11, 51, 0.51, {"loss": 1.0})
    assert (now.rows_per_s, now.tokens_per_s, now.left_s) == (0.5, 150.0, 98.0)
    # Back to a checkpoint: what is done falls, what was worked does not.
    live("sft", TrainingAt(46, 100, 0, {"loss": 1.5}))
    assert (step(live, "sft").rows, step(live, "sft").rows_done) == (11, 46)


def test_a_step_that_is_tried_again_counts_its_rows_once():
    live = live_run(Clock())
    for rows_done in (20, 30):
        live("sample-a", StepBegan())
        live("sample-a", WorkBegan(100, rows_done, 8))
        live("sample-a", ShardDone(10, 0, 1.0))
    assert (step(live, "sample-a").rows, step(live, "sample-a").rows_done) == (20, 40)


def test_pace_is_of_the_last_minute_and_rows_of_earlier_starts_are_no_part_of_it():
    pace = Pace(0.0)
    assert pace.rates(30.0) is None
    for second in range(1, 601):
        # Ten times as fast in the second half.
        pace.add(float(second), 1 if second <= 300 else 10, 100, 1.0)
    assert pace.rates(600.0) == (10.0, 100.0)


def test_pace_of_long_shards_that_end_together_is_not_cut_by_the_window():
    pace = Pace(0.0)
    for burst in range(1, 6):
        for _ in range(8):
            pace.add(burst * 600.0, 256, 0, 600.0)
    assert MIN_ARRIVALS == 16
    # Between two bursts nothing is known to be slower ...
    for waited_s in (0.0, 300.0, 599.0):
        assert pace.rates(3000.0 + waited_s) == pytest.approx((8 * 256 / 600, 0.0))
    # ... and a stall shows.
    stalled = pace.rates(3000.0 + 3 * 600.0)
    assert stalled is not None
    assert stalled[0] < 0.5 * 8 * 256 / 600


def test_pace_keeps_little_however_much_arrives():
    pace = Pace(0.0)
    for number in range(200_000):
        pace.add(number * 0.001, 1)
    assert len(pace._buckets) <= WINDOW_S + 2
    assert pace.rates(199.999) == pytest.approx((1000.0, 0.0), rel=0.02)


def test_a_storm_of_events_from_eight_threads_is_cheap_and_none_is_lost():
    names = [f"sample-{number}" for number in range(8)]
    live = LiveRun("r", PRICES, lambda name: HOLDINGS["sample-a"], time.monotonic)
    per_thread, views = 12_500, []

    def work(name: str) -> None:
        with within(name):
            emit(StepBegan())
            emit(WorkBegan(per_thread, 0, per_thread))
            for number in range(per_thread - 4):
                emit(ShardDone(1, 7, 0.01, {"x": 1} if number % 100 == 0 else {}))
            emit(StepEnded(1.0))

    with listening(live):
        announce(StepsChosen(tuple(names)))
        threads = [threading.Thread(target=contextvars.copy_context().run, args=(work, name)) for name in names]
        began_s, cpu_s = time.perf_counter(), time.process_time()
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            views.append(live.view())
            time.sleep(0.01)
        cpu_s, seconds = time.process_time() - cpu_s, time.perf_counter() - began_s
    num_events = 8 * (per_thread - 1)
    print(f"{num_events} events in {seconds:.2f} s, {1e6 * cpu_s / num_events:.1f} us of CPU each, {len(views)} views")
    for each in live.view().steps:
        assert (each.phase, each.rows, each.tokens) == ("done", per_thread - 4, 7 * (per_thread - 4))
        assert each.set_aside == {"x": 125}
    # What was seen on the way never went back.
    counts = [sum(each.rows for each in view.steps) for view in views]
    assert counts == sorted(counts)
    assert cpu_s / num_events < 20e-6


def test_a_step_under_another_fingerprint_is_made_again():
    clock, steps = Clock(), ("sample-a", "score-a")
    live = live_run(clock)
    live("", StepsChosen(steps, (), {}, {"sample-a": "1", "score-a": "1"}))
    for name in steps:
        live(name, StepBegan())
        live(name, ReplicasChanged(1, 2.0))
        live(name, WorkBegan(100, 0, 10))
        live(name, ShardDone(100, 500, 4.0))
    live("sample-a", StepEnded(10.0))
    clock.now = 10.0
    # Another source has broken: one of the two is changed by it, and both were under way.
    live("", StepsChosen(steps, ("b",), {}, {"sample-a": "2", "score-a": "1"}))
    again = step(live, "sample-a")
    assert (again.phase, again.rows_done, again.share, again.units, again.seconds) == ("waiting", 0, 0.0, 0.0, None)
    assert (step(live, "score-a").phase, step(live, "score-a").rows_done) == ("running", 100)
    live("sample-a", StepBegan())
    live("sample-a", WorkBegan(120, 0, 12))
    live("sample-a", ShardDone(20, 100, 4.0))
    again = step(live, "sample-a")
    # What it has done at all is work of this start all the same.
    assert (again.phase, again.rows_done, again.share, again.rows, again.tokens) == ("running", 20, 20 / 120, 120, 600)


def test_a_step_that_begins_again_without_a_word_counts_its_rows_once():
    live = live_run(Clock())
    for _ in range(2):
        live("sample-a", StepBegan())
        live("sample-a", WorkBegan(100, 0, 10))
        live("sample-a", ShardDone(20, 100, 4.0))
    assert (step(live, "sample-a").rows_done, step(live, "sample-a").share) == (20, 0.2)
