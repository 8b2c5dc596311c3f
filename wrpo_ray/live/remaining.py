"""How long a run still takes: what the plan says of the rest, at the pace of this start, on the plan's schedule.

Every step that is not done becomes a job again and the planner's own list scheduler places them, so sources run side
by side here as they do in the plan. A running step that knows its pace takes what its rows take at that pace; any
other takes what the plan says times actual over planned, of start-up and of work, of the steps of its kind so far.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from wrpo_ray.live.view import StepView, TimeLeft
from wrpo_ray.planning.schedule import Job, makespan_s, schedule

# A step that takes longer than expected is taken to need a tenth of its time so far again.
_OVERDUE = 0.1
# How strongly the factors of start-up and work are drawn towards 1, and how small they can become.
_TO_ONE, _LEAST_FACTOR = 0.01, 0.05


@dataclass(frozen=True)
class PlannedStage:
    """What the time left needs of a planned stage. group: stages whose paces are alike."""

    job: Job
    group: str
    input_tokens: float


Stages = Mapping[str, PlannedStage]


def planned_stages(plan: Mapping[str, Any]) -> dict[str, PlannedStage]:
    """Return the stages of a stored plan (planning.text.plan_json) by step; none where there is no plan."""
    found = {}
    for stage in plan.get("stages", ()):
        job = Job(**{**stage["job"], "after": tuple(stage["job"]["after"])})
        group = "endpoint" if stage["endpoint"] else stage["kind"]
        found[stage["step"]] = PlannedStage(job, group, stage["input_tokens"])
    return found


def time_left(steps: Sequence[StepView], plan: Mapping[str, Any], stages: Stages) -> TimeLeft:
    """Return the time until the last step is done."""
    todo = [step for step in steps if step.unfinished and step.holding is not None]
    if not todo and any(step.unfinished for step in steps):
        return TimeLeft(None, unknown="no step that is left is planned")
    if not todo:
        return TimeLeft(0.0, measured=True)
    # Those that know their pace need no plan.
    unplanned = [step.name for step in todo if step.name not in stages and step.left_s is None]
    if unplanned:
        unknown = f"the plan does not know step {unplanned[0]}" if stages else "there is no plan"
        return TimeLeft(None, unknown=plan.get("reason") or unknown)
    paces = _Paces(steps, stages)
    names = {step.name for step in todo}
    jobs = [_job(step, stages.get(step.name), paces, names) for step in todo]
    measured = paces.measured or any(step.left_s is not None for step in todo)
    return TimeLeft(makespan_s(schedule(jobs, _cluster(plan, jobs, todo))), measured)


@dataclass(frozen=True)
class _Made:
    """What this start has done of a step, in accelerator-seconds: planned start-up and work, and what it took."""

    start: float
    work: float
    actual: float


@dataclass(frozen=True)
class _Factors:
    """Actual over planned time, of start-up and of work."""

    start: float = 1.0
    work: float = 1.0


class _Paces:
    """Actual over planned accelerator-time of what this start has done, by group of stages."""

    def __init__(self, steps: Iterable[StepView], stages: Stages) -> None:
        made: dict[str, list[_Made]] = defaultdict(list)
        for step in steps:
            stage = stages.get(step.name)
            if stage is not None and (one := _made(step, stage.job)) is not None:
                made[stage.group].append(one)
        self._by_group = {group: _fitted(of_group) for group, of_group in made.items()}
        self._overall = _fitted([one for of_group in made.values() for one in of_group])
        self.measured = bool(made)

    def of(self, group: str) -> _Factors:
        """Return the group's factors, or those of all groups where it has done nothing yet."""
        return self._by_group.get(group, self._overall)


def _made(step: StepView, job: Job) -> _Made | None:
    if step.rows_all and step.rows:
        share = step.rows / step.rows_all
    elif step.phase == "done" and step.rows_all is None:
        share = 1.0
    else:
        return None
    start = job.start_s * job.gpus_per_replica * max(1, step.most_replicas)
    one = _Made(start, job.gpu_seconds * share, step.unit_seconds)
    return one if one.actual > 0.0 and one.start + one.work > 0.0 else None


def _fitted(made: Sequence[_Made]) -> _Factors:
    """Return the factors of start-up and work that explain best what all of it took.

    Small models take as long as their start, and tell nothing of how fast large ones work: least squares, each step
    relative to its plan and weighted by it, drawn towards 1 where the steps cannot tell the two factors apart.
    """
    total = sum(one.start + one.work for one in made)
    aa = bb = _TO_ONE
    ab = a_error = b_error = 0.0
    for one in made:
        planned = one.start + one.work
        weight, a, b, error = planned / total, one.start / planned, one.work / planned, one.actual / planned - 1.0
        aa, ab, bb = aa + weight * a * a, ab + weight * a * b, bb + weight * b * b
        a_error, b_error = a_error + weight * a * error, b_error + weight * b * error
    determinant = aa * bb - ab * ab
    start = 1.0 + (bb * a_error - ab * b_error) / determinant
    work = 1.0 + (aa * b_error - ab * a_error) / determinant
    return _Factors(max(start, _LEAST_FACTOR), max(work, _LEAST_FACTOR))


def _job(step: StepView, stage: PlannedStage | None, paces: _Paces, unfinished: set[str]) -> Job:
    if stage is None:
        assert step.holding is not None
        planned = Job(step.name, step.holding.accelerator, step.holding.units, 0.0)
    else:
        after = tuple(name for name in stage.job.after if name in unfinished)
        planned = replace(stage.job, after=() if step.phase == "running" else after)
    replicas = min(max(step.replicas, planned.min_replicas), max(planned.max_replicas, step.replicas))
    now = replace(planned, min_replicas=replicas, max_replicas=max(planned.max_replicas, replicas))
    if step.left_s is not None:
        return replace(now, gpu_seconds=step.left_s * replicas * planned.gpus_per_replica, start_s=0.0)
    factors = paces.of(stage.group) if stage is not None else _Factors()
    start_s, gpu_seconds = planned.start_s * factors.start, planned.gpu_seconds * factors.work
    if step.phase == "waiting":
        return replace(planned, gpu_seconds=gpu_seconds, start_s=start_s)
    held = replicas * planned.gpus_per_replica
    elapsed_s = step.seconds or 0.0
    expected_s = (start_s + gpu_seconds / held) * (1.0 - (step.share or 0.0))
    left_s = max(expected_s - elapsed_s, _OVERDUE * elapsed_s)
    return replace(now, gpu_seconds=left_s * held, start_s=0.0)


def _cluster(plan: Mapping[str, Any], jobs: Sequence[Job], steps: Sequence[StepView]) -> dict[str, float]:
    """Return the plan's accelerators, and more where more are held or asked for: the cluster has grown since."""
    cluster: dict[str, float] = dict(plan.get("cluster", {}))
    held: dict[str, float] = defaultdict(float)
    for job, step in zip(jobs, steps, strict=True):
        needed = job.min_replicas * job.gpus_per_replica
        if step.phase == "running":
            held[job.accelerator] += needed
        cluster[job.accelerator] = max(cluster.get(job.accelerator, 0.0), needed, held[job.accelerator])
    return cluster
