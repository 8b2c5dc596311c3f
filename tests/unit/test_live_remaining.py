"""The time left: sources side by side, the pace of this start, the plan for the rest; unknown where it is unknown."""

import dataclasses

import pytest

from wrpo_ray.config import PricesConfig
from wrpo_ray.events import ReplicasChanged, ShardDone, StepBegan, StepEnded, StepsChosen, WorkBegan
from wrpo_ray.live.holding import Holding
from wrpo_ray.live.remaining import planned_stages, time_left
from wrpo_ray.live.state import LiveRun
from wrpo_ray.live.view import StepView, TimeLeft
from wrpo_ray.planning.schedule import schedule

ENGINE = Holding("sampling", "H100", 1.0)
SCORER = Holding("scoring", "H100", 1.0)


def stage(step: str, gpu_seconds: float, *after: str, kind: str = "sampling", replicas: int = 1, start_s: float = 0.0):
    job = {
        "name": step, "accelerator": "H100", "gpus_per_replica": 1.0, "gpu_seconds": gpu_seconds,
        "max_replicas": replicas, "min_replicas": 1, "start_s": start_s, "after": list(after),
    }  # fmt: skip
    return {"step": step, "kind": kind, "endpoint": None, "input_tokens": 0.0, "job": job}


def plan(*stages, gpus: float = 4.0):
    return {"stages": list(stages), "cluster": {"H100": gpus}}


def left(steps, told) -> TimeLeft:
    return time_left(steps, told, planned_stages(told))


def waiting(name: str, holding: Holding = ENGINE) -> StepView:
    return StepView(name, "waiting", holding)


def running(name: str, rows: int, rows_per_s: float | None, replicas: int = 1, **values) -> StepView:
    return StepView(
        name, "running", ENGINE, rows_all=1000, rows_done=rows, rows=rows, rows_per_s=rows_per_s, replicas=replicas,
        units=float(replicas), most_replicas=replicas, **values,
    )  # fmt: skip


def test_before_anything_runs_it_is_the_plan():
    told = plan(*(stage(f"s{n}", 100.0) for n in range(8)), stage("sft", 50.0, *(f"s{n}" for n in range(8))))
    steps = [waiting(f"s{n}") for n in range(8)] + [waiting("sft")]
    # Eight sources on four accelerators, two after each other, then training.
    assert left(steps, told) == TimeLeft(250.0, measured=False)


def test_sources_run_side_by_side_and_what_is_done_is_not_counted():
    told = plan(stage("a", 100.0), stage("b", 100.0), stage("c", 100.0, "a"))
    steps = [
        dataclasses.replace(waiting("a"), phase="complete before"),
        running("b", 400, 2.0),
        waiting("c"),
    ]
    # b needs 600 rows / 2 per s; c begins at once beside it.
    assert left(steps, told) == TimeLeft(300.0, measured=True)


def test_steps_that_have_not_begun_take_the_pace_of_their_kind():
    told = plan(stage("a", 100.0), stage("b", 100.0), stage("x", 100.0, "a", kind="scoring"), gpus=1.0)
    done = StepView("a", "done", ENGINE, rows_all=1000, rows_done=1000, rows=1000, unit_seconds=300.0, most_replicas=1)
    # Sampling takes three times what was planned; scoring, of which nothing is known, is taken to be like the rest.
    found = left([done, waiting("b"), waiting("x", SCORER)], told)
    assert found == TimeLeft(pytest.approx(600.0, rel=0.01), measured=True)
    scored = StepView("x", "done", SCORER, rows_all=9, rows_done=9, rows=9, unit_seconds=50.0, most_replicas=1)
    told = plan(*told["stages"], stage("y", 100.0, "b", kind="scoring"), gpus=1.0)
    # Scoring half of it: 3 * 100 + 0.5 * 100, one after the other.
    found = left([done, scored, waiting("b"), waiting("y", SCORER)], told)
    assert found == TimeLeft(pytest.approx(350.0, rel=0.01), measured=True)


def test_slow_starts_of_small_models_say_little_about_the_work_of_large_ones():
    told = plan(*(stage(f"small-{n}", 2.0, start_s=20.0) for n in range(3)), stage("large", 360.0, start_s=20.0))
    made = [
        StepView(f"small-{n}", "done", ENGINE, rows_all=9, rows_done=9, rows=9, unit_seconds=50.0, most_replicas=1)
        for n in range(3)
    ]
    # 50 of 22 seconds would be 864; starts take 2.4 times what was planned, work perhaps a little more than planned.
    assert left([*made, waiting("large")], told).seconds == pytest.approx(20 * 2.4 + 360 * 1.15, rel=0.05)
    # What a model of its size takes is another matter.
    slow = StepView("other", "done", ENGINE, rows_all=9, rows_done=9, rows=9, unit_seconds=800.0, most_replicas=1)
    told = plan(*told["stages"], stage("other", 360.0, start_s=20.0))
    assert left([*made, slow, waiting("large")], told).seconds == pytest.approx(800.0, rel=0.03)


def test_rows_of_earlier_starts_are_no_measure_of_the_pace():
    told = plan(stage("a", 1000.0), stage("b", 1000.0))
    # 900 rows were there; this start has made 50 of them in 100 accelerator-seconds: twice the planned time.
    made = StepView(
        "a", "done", ENGINE, rows_all=1000, rows_done=950, rows=50, unit_seconds=100.0, most_replicas=1
    )  # fmt: skip
    assert left([made, waiting("b")], told).seconds == pytest.approx(2000.0, rel=0.01)


def test_a_step_without_a_pace_yet_takes_what_was_planned_and_is_never_about_to_end():
    told = plan(stage("a", 100.0, start_s=20.0))
    begun = running("a", 0, None, seconds=30.0)
    assert left([begun], told).seconds == pytest.approx(90.0)
    overdue = running("a", 0, None, seconds=500.0)
    assert left([overdue], told).seconds == pytest.approx(50.0)


def test_more_replicas_join_as_the_plan_lets_them():
    told = plan(stage("a", 100.0, replicas=4), gpus=4.0)
    assert left([running("a", 200, 1.0, replicas=1)], told).seconds == pytest.approx(200.0)


def test_a_cluster_that_has_grown_is_no_obstacle():
    told = plan(stage("a", 100.0), stage("b", 100.0), gpus=1.0)
    steps = [running("a", 500, 5.0, replicas=3), running("b", 500, 5.0)]
    assert left(steps, told).seconds == pytest.approx(100.0)


def test_what_is_not_known_is_said():
    known = running("a", 500, 5.0)
    assert left([known], {"reason": "no model"}) == TimeLeft(100.0, measured=True)
    assert left([known, waiting("b")], {"reason": "no model"}) == TimeLeft(None, unknown="no model")
    unknown = "the plan does not know step first-sample-b"
    assert left([waiting("first-sample-b")], plan(stage("a", 1.0))) == TimeLeft(None, unknown=unknown)
    assert left([waiting("a")], {}) == TimeLeft(None, unknown="there is no plan")


def test_nothing_left_is_no_time_and_a_rest_that_nobody_planned_is_unknown():
    done = StepView("a", "complete before", ENGINE)
    assert left([done], {}) == TimeLeft(0.0, measured=True)
    assert left([done, StepView("fuse", "waiting")], {}).unknown == "no step that is left is planned"


class Clock:
    """Seconds that the simulation sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def simulated(slower: dict[str, float], num_sources: int, gpus: float):
    """Yield clock, live state and true end at every event of a run that takes `slower` times its plan, by kind."""
    names = [f"sample-{n}" for n in range(num_sources)]
    stages = [stage(name, 400.0 * (1 + n % 4), replicas=2, start_s=20.0) for n, name in enumerate(names)]
    stages += [
        stage(f"score-{n}", 100.0 * (1 + n % 4), name, kind="scoring", start_s=10.0) for n, name in enumerate(names)
    ]
    told = plan(*stages, gpus=gpus)
    kinds = {each["step"]: each["kind"] for each in stages}
    factors = {step: slower[kind] for step, kind in kinds.items()}
    jobs = [
        dataclasses.replace(each.job, gpu_seconds=each.job.gpu_seconds * factors[name], start_s=each.job.start_s)
        for name, each in planned_stages(told).items()
    ]
    clock = Clock()
    holdings = {name: Holding(kind, "H100", 1.0) for name, kind in kinds.items()}
    live = LiveRun("r", PricesConfig(), holdings.get, clock)
    live("", StepsChosen(tuple(kinds), (), told))
    happenings = list(_happenings(schedule(jobs, told["cluster"]), {job.name: job.start_s for job in jobs}))
    end_s = max(at for at, *_ in happenings)
    for at, name, events in sorted(happenings, key=lambda each: each[0]):
        clock.now = at
        for event in events:
            live(name, event)
        yield at, end_s, live


def _happenings(placements, start_s):
    for name in start_s:
        own = sorted((each for each in placements if each.job == name), key=lambda each: each.start_s)
        yield own[0].start_s, name, (StepBegan(), WorkBegan(100, 0, 100))
        for number, each in enumerate(own, start=1):
            yield each.start_s, name, (ReplicasChanged(number, float(number)),)
        # A hundred shards, evenly over the time in which replicas work.
        spans = [(each.start_s + start_s[name], each.end_s) for each in own]
        total = sum(max(0.0, end - begin) for begin, end in spans)
        for begin, end in spans:
            count = round(100 * max(0.0, end - begin) / total)
            for number in range(1, count + 1):
                yield begin + number * (end - begin) / count, name, (ShardDone(1, 100, (end - begin) / count),)
        yield own[0].end_s + 1e-6, name, (ReplicasChanged(0, 0.0), StepEnded(own[0].end_s - own[0].start_s))


@pytest.mark.parametrize("slower", [{"sampling": 1.0, "scoring": 1.0}, {"sampling": 2.5, "scoring": 0.6}])
@pytest.mark.parametrize(("num_sources", "gpus"), [(4, 8.0), (12, 4.0), (50, 16.0)])
def test_the_time_left_is_close_to_the_truth_once_each_kind_of_step_has_been_seen(slower, num_sources, gpus):
    errors = []
    for count, (now_s, end_s, live) in enumerate(simulated(slower, num_sources, gpus)):
        if count % 100:
            continue
        view = live.view()
        scored = any(step.holding.kind == "scoring" and step.rows for step in view.steps)
        # Of scoring that has not begun it is not known that its pace differs from sampling's.
        if scored or (slower["sampling"] == slower["scoring"] and now_s > 0.1 * end_s):
            errors.append(abs(view.time_left.seconds - (end_s - now_s)) / end_s)
    print(f"{len(errors)} looks, worst error {max(errors):.1%}, mean {sum(errors) / len(errors):.1%} of the run")
    assert len(errors) > 3
    assert max(errors) < 0.12
    assert sum(errors) / len(errors) < 0.03
