"""The plan of a run: its stages on a schedule, with what they cost and what does not fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from wrpo_ray.config import FuseConfig
from wrpo_ray.errors import ConfigError, Problem
from wrpo_ray.model_store import stored_if_there
from wrpo_ray.planning.accelerators import CPU
from wrpo_ray.planning.fit import Fit
from wrpo_ray.planning.lengths import Lengths, find_lengths
from wrpo_ray.planning.lookup import FoundShape, find_shapes
from wrpo_ray.planning.schedule import CannotPlaceError, Placement, makespan_s, schedule
from wrpo_ray.planning.stages import Stage, build_stages

HOUR_S = 3600.0


@dataclass(frozen=True)
class PlannedStage:
    """A stage in its place: seconds from the beginning of the run, and who holds what.

    price: of the accelerators while they are held, None when they have none in the config.
    """

    stage: Stage
    placements: tuple[Placement, ...]
    price: float | None

    @property
    def start_s(self) -> float:
        return min(placement.start_s for placement in self.placements)

    @property
    def end_s(self) -> float:
        return max(placement.end_s for placement in self.placements)

    @property
    def seconds(self) -> float:
        return self.end_s - self.start_s

    @property
    def gpu_hours(self) -> float:
        """Accelerator-hours held, start-up included; none where the work is done on CPUs or behind an endpoint."""
        return 0.0 if self.stage.job.accelerator == CPU else _held_s(self.placements) / HOUR_S

    @property
    def cpu_hours(self) -> float:
        """Core-hours held by steps without an accelerator, start-up included."""
        return _held_s(self.placements) / HOUR_S - self.gpu_hours


@dataclass(frozen=True)
class RunPlan:
    """Everything that `wrpo-ray plan` tells. cluster: accelerators by type. shape_origins: by section."""

    run: str
    stages: tuple[PlannedStage, ...]
    cluster: Mapping[str, float]
    currency: str
    prices: Mapping[str, float]
    lengths: Lengths
    shape_origins: Mapping[str, str]

    @cached_property
    def seconds(self) -> float:
        return makespan_s(placement for stage in self.stages for placement in stage.placements)

    @property
    def price(self) -> float | None:
        """Of what is held; None when something that is held has no price."""
        return _sum([stage.price for stage in self.stages])

    @property
    def cluster_price(self) -> float | None:
        """Of the whole cluster from beginning to end, idle or not, and of the endpoints."""
        hours = self.seconds / HOUR_S
        held = [_times(self.prices.get(name), count * hours) for name, count in self.cluster.items()]
        return _sum([*held, *(stage.price for stage in self.stages if stage.stage.endpoint is not None)])

    @property
    def busy_share(self) -> dict[str, float]:
        """Share of each type's accelerator-time that is held."""
        placements = [placement for stage in self.stages for placement in stage.placements]
        return {
            name: _held_s([each for each in placements if each.accelerator == name]) / (count * self.seconds)
            for name, count in self.cluster.items()
        }

    def longest_chain(self) -> list[PlannedStage]:
        """Return the stages that the end waits for, each for the one before it: further accelerators help these."""
        by_step = {stage.stage.step: stage for stage in self.stages}
        chain = [max(self.stages, key=lambda stage: stage.end_s)]
        while after := chain[0].stage.job.after:
            chain.insert(0, max((by_step[name] for name in after), key=lambda stage: stage.end_s))
        return chain

    @property
    def misfits(self) -> list[Fit]:
        """What does not fit into memory, each section once."""
        fits = [stage.stage.fit for stage in self.stages if stage.stage.fit is not None]
        return list({(fit.place, fit.reason): fit for fit in fits if not fit.fits}.values())


def _held_s(placements: Sequence[Placement]) -> float:
    return sum(placement.gpus * (placement.end_s - placement.start_s) for placement in placements)


def _price(config: FuseConfig, stage: Stage, hours: float) -> float | None:
    """Return what a stage costs: the endpoint's tokens, or the accelerators' hours."""
    if stage.endpoint is None:
        return _times(config.prices.per_hour.get(stage.job.accelerator), hours)
    price = config.prices.per_million_tokens.get(stage.endpoint)
    if price is None:
        return None
    return (price.input * stage.input_tokens + price.output * stage.output_tokens) / 1e6


def _times(price: float | None, amount: float) -> float | None:
    return None if price is None else price * amount


def _sum(prices: Sequence[float | None]) -> float | None:
    known = [price for price in prices if price is not None]
    return sum(known) if len(known) == len(prices) else None


def plan_run(config: FuseConfig) -> RunPlan:
    """Return the plan of `config`, without Ray, torch or an accelerator.

    Raises ConfigError for a model, accelerator or quantization that is not known and for a step that the cluster can
    never hold; DataError when prompts have to be measured and cannot be.
    """
    shapes, lengths = find_shapes(stored_if_there(config)), find_lengths(config)
    return place_stages(config, build_stages(config, shapes, lengths), lengths, shapes)


def place_stages(
    config: FuseConfig, stages: Sequence[Stage], lengths: Lengths, shapes: Mapping[str, FoundShape]
) -> RunPlan:
    """Return the plan of these stages on the config's cluster."""
    cluster = cluster_of(config, stages)
    try:
        placements = schedule([stage.job for stage in stages], cluster)
    except CannotPlaceError as error:
        raise ConfigError.of("cannot plan this config", [_too_small(error)]) from error
    prices = config.prices.per_hour
    planned = []
    for stage in stages:
        own = tuple(placement for placement in placements if placement.job == stage.step)
        planned.append(PlannedStage(stage, own, _price(config, stage, _held_s(own) / HOUR_S)))
    origins = {place: found.origin for place, found in shapes.items()}
    return RunPlan(config.run.name, tuple(planned), cluster, config.prices.currency, prices, lengths, origins)


def cluster_of(config: FuseConfig, stages: Sequence[Stage]) -> dict[str, float]:
    """Return the accelerators by type: the config's, or as many as the largest step asks for.

    Endpoints and rules take next to nothing of a CPU, so that none of them waits for another one.
    """
    largest: dict[str, float] = {}
    beside = 0.0
    for stage in stages:
        job = stage.job
        if stage.endpoint is not None or not job.gpu_seconds:
            beside += job.gpus_per_replica
            continue
        asked = job.gpus_per_replica * job.max_replicas
        largest[job.accelerator] = max(asked, largest.get(job.accelerator, 0.0))
    if beside:
        largest[CPU] = beside + largest.get(CPU, 0.0)
    if CPU in largest and config.ray.num_cpus is not None:
        largest[CPU] = float(config.ray.num_cpus)
    return {name: float(config.planning.cluster.get(name, count)) for name, count in largest.items()}


def _too_small(error: CannotPlaceError) -> Problem:
    rule = f"step {error.job.name} needs {error.needed:g} {error.job.accelerator} at once"
    fix = "enlarge planning.cluster (or ray.num_cpus), or let the step take fewer"
    return Problem(f"planning.cluster.{error.job.accelerator}", f"{error.available:g}", rule, fix, "WRPO-C064")
