"""One step of a run as the plan sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from wrpo_ray.config import ResourcesConfig
from wrpo_ray.planning.fit import Fit
from wrpo_ray.planning.generation import Bound
from wrpo_ray.planning.schedule import Job

Kind = Literal["sampling", "scoring", "training", "reference"]


@dataclass(frozen=True)
class Stage:
    """One step: what goes in and comes out in tokens, FLOPs, the job for the schedule, its memory, and what bounds it.

    responses: that it draws or scores, or rows that it trains on. batch: sequences that an engine decodes side by side;
    capacity: that its cache would hold.
    endpoint: name of the source when an endpoint does the work.
    """

    kind: Kind
    job: Job
    responses: float
    input_tokens: float
    output_tokens: float
    flops: float
    bound: Bound
    fit: Fit | None = None
    batch: float | None = None
    capacity: float | None = None
    endpoint: str | None = None

    @property
    def step(self) -> str:
        """Name of the step, as the run has it."""
        return self.job.name


def engine_job(
    step: str, accelerator: str, resources: ResourcesConfig, gpu_seconds: float, start_s: float, after: Sequence[str]
) -> Job:
    """Return the job of a pool of engines: one replica will do, more of them join in."""
    gpus = resources.num_gpus or resources.num_cpus
    return Job(step, accelerator, gpus, gpu_seconds, resources.num_replicas, 1, start_s, tuple(after))


def bound_of(job: Job, otherwise: Bound) -> Bound:
    """Return what holds a job up: its start, when that takes longer than the work of all its replicas."""
    working_s = job.gpu_seconds / (job.gpus_per_replica * job.max_replicas)
    return "start-up" if job.start_s > working_s else otherwise
