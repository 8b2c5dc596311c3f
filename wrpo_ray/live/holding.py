"""What a step of a config holds while it works, by the step's name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from wrpo_ray.claims import scoring_resources
from wrpo_ray.config import (
    FuseConfig,
    OpenAISourceConfig,
    ResourcesConfig,
    SourceConfig,
    TrainConfig,
)
from wrpo_ray.planning.stage import Kind

CPU = "CPU"
# Of steps that ask what no response of a run's own is drawn for; the longer ones first.
_ASKED_BESIDE = ("benchmark-", "mt-bench-2-", "mt-bench-", "safety-")


@dataclass(frozen=True)
class Holding:
    """What each of a step's processes holds: `units` accelerators of a type, or CPU cores where it has no GPU.

    num_workers: processes of a training step, which hold theirs from its beginning to its end; None for pools, which
    tell themselves how many replicas they have. most_replicas: that a pool may spread to. source: name of the source
    whose responses are drawn or scored.
    endpoint: that name when an endpoint does the work.
    """

    kind: Kind
    accelerator: str
    units: float
    num_workers: int | None = None
    most_replicas: int = 1
    source: str | None = None
    endpoint: str | None = None


def holdings(config: FuseConfig) -> Callable[[str], Holding | None]:
    """Return the function that tells what a step holds, None for a step that works on the driver's node alone."""
    sources: dict[str, SourceConfig] = {source.name: source for source in config.sources}
    asked = config.evaluation.judge if config.evaluation else None
    judge = dataclasses.replace(_sampling(config, asked), source=None) if asked else None
    trained: dict[str, TrainConfig] = {"sft": config.sft, "wrpo": config.wrpo, "reference": config.wrpo}
    if config.ablation.skip_sft:
        # A copy of the target.
        del trained["sft"]

    def holding(step: str) -> Holding | None:
        if step in trained:
            return _training(config, "reference" if step == "reference" else "training", trained[step])
        evaluates = step.startswith("evaluation-")
        own = step.removeprefix("first-").removeprefix("evaluation-")
        if own.startswith("lm-eval-"):
            # One process, from the step's beginning to its end.
            return dataclasses.replace(_sampling(config, None), num_workers=1)
        for prefix in _ASKED_BESIDE if evaluates else ():
            own = own.removeprefix(prefix)
        stage, _, name = own.partition("-")
        if evaluates and stage == "judge":
            return judge
        found = _of_model(config, stage, sources.get(name))
        # What counts as a source's are the responses that the run learns from.
        return dataclasses.replace(found, source=None) if found and evaluates else found

    return holding


def _of_model(config: FuseConfig, stage: str, source: SourceConfig | None) -> Holding | None:
    if stage == "sample":
        return _sampling(config, source)
    return _scoring(config, source.name if source else None) if stage == "score" else None


def _sampling(config: FuseConfig, source: SourceConfig | None) -> Holding:
    if isinstance(source, OpenAISourceConfig):
        return Holding("sampling", CPU, source.num_cpus, source=source.name, endpoint=source.name)
    model = source or config.target
    return Holding(
        "sampling", *_unit(config, model.resources), most_replicas=model.resources.num_replicas,
        source=source.name if source else None,
    )  # fmt: skip


def _scoring(config: FuseConfig, source: str | None) -> Holding:
    reward = config.reward
    resources = scoring_resources(reward)
    return Holding("scoring", *_unit(config, resources), most_replicas=resources.num_replicas, source=source)


def _unit(config: FuseConfig, resources: ResourcesConfig) -> tuple[str, float]:
    if not resources.num_gpus:
        return CPU, resources.num_cpus
    return resources.accelerator_type or config.planning.accelerator, resources.num_gpus


def _training(config: FuseConfig, kind: Kind, train: TrainConfig) -> Holding:
    if train.num_gpus_per_worker:
        accelerator = train.accelerator_type or config.planning.accelerator
        return Holding(kind, accelerator, float(train.num_gpus_per_worker), train.num_workers)
    return Holding(kind, CPU, train.num_cpus_per_worker, train.num_workers)
