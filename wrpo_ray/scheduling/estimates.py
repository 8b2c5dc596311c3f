"""How long steps take: what the plan says, what is declared where there is none, and what is seen. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from wrpo_ray.claims import NOTHING
from wrpo_ray.planning.schedule import Job, ways_to_the_end
from wrpo_ray.scheduling.policy import Task
from wrpo_ray.steps import Step

# Without a plan, what counts is the order: who asks for more is taken for larger.
_DECLARED_WORK_S, _DECLARED_START_S = 600.0, 20.0
# Of a replica's process, before its engine starts; measured on two busy cores.
_PROCESS_START_S = 3.0
# What was seen in so little of the work says less than the plan does.
_SEEN_ENOUGH = 0.02


def tasks_of(steps: Sequence[Step], planned: Sequence[Job]) -> dict[str, Task]:
    """Return the steps as the policy sees them, by name.

    planned: jobs of the plan, none when there is no plan.
    """
    known = {job.name: job for job in planned}
    names = {step.name for step in steps}
    jobs = [_job(step, _planned(known, step.name), names) for step in steps]
    ways = ways_to_the_end(jobs)
    return {
        job.name: Task(
            job.name, step.claim or NOTHING, job.gpu_seconds / job.gpus_per_replica, job.start_s, ways[job.name]
        )
        for job, step in zip(jobs, steps, strict=True)
    }


def _planned(known: Mapping[str, Job], name: str) -> Job | None:
    """Both loads of a source (sampling.allocation) are parts of the one that is planned."""
    return known.get(name) or known.get(name.removeprefix("first-"))


def _job(step: Step, planned: Job | None, names: set[str]) -> Job:
    """Return the step as a job whose accelerators are its parts."""
    after = tuple(given.name for given in step.inputs if given.name in names)
    claim = step.claim
    if claim is None:
        return Job(step.name, "", 1.0, 0.0, after=after)
    if planned is None:
        return Job(
            step.name, "", 1.0, _DECLARED_WORK_S * claim.most, claim.most, claim.fewest, _DECLARED_START_S, after
        )
    work_s = planned.gpu_seconds / planned.gpus_per_replica
    return Job(step.name, "", 1.0, work_s, claim.most, claim.fewest, planned.start_s + _PROCESS_START_S, after)


def left_s(task: Task, share_at_start: float, share_left: float, used_s: float) -> float:
    """Return the seconds that one part would still take.

    share_at_start, share_left: of the whole step's work, 1 where nothing is known. used_s: seconds that all parts have
    worked together since the start, without the time that they took to start.
    """
    done = share_at_start - share_left
    if done > _SEEN_ENOUGH * share_at_start and used_s > 0:
        return used_s / done * share_left
    planned_s = task.work_s * share_left
    # A step of which nothing is seen but that it goes on: what is left shrinks, and never ends before it does.
    return max(planned_s - used_s, 0.05 * planned_s) if share_at_start == share_left else planned_s
