"""The steps of the sources when only a part of the grid is drawn (sampling.allocation).

prompts ─► first-sample, first-score (each source) ─► allocate ─► sample, score (each source) ─► as ever

Each source's model is loaded by its two sampling steps and by no other one. What the first of them draws does not
depend on the other sources, so it is reused when these change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from wrpo_ray.allocation.slices import slices_of
from wrpo_ray.config import FuseConfig, SourceConfig
from wrpo_ray.config_allocation import AllocationConfig
from wrpo_ray.data.allocation import FirstLoad, allocate
from wrpo_ray.data.requests import FirstRequests, FurtherRequests, Requests
from wrpo_ray.steps import Step, StepResult
from wrpo_ray.storage.location import Location


@dataclass(frozen=True)
class Draws:
    """Which samples a sampling step draws instead of all: those of `requests`, asked when it runs.

    identity, inputs: what they depend on.
    """

    identity: Mapping[str, Any]
    inputs: tuple[Step, ...]
    requests: Callable[[], Requests]


@dataclass(frozen=True)
class Builder:
    """What is used of the pipeline.

    prompt_ids: of all prompts, read once. add: appends a step, after its inputs. folder: where a step's result lies or
    will lie. drawn_and_scored: adds the steps that draw and score responses, named with a prefix. selection_identity:
    what decides which responses may be chosen.
    """

    config: FuseConfig
    prompt_ids: Iterable[str]
    add: Callable[[Step], Step]
    folder: Callable[[Step], Location]
    drawn_and_scored: Callable[[str, SourceConfig, Step, Draws], tuple[Step, Step]]
    selection_identity: Mapping[str, Any]


def allocated_scores(builder: Builder, allocation: AllocationConfig, prompts: Step) -> tuple[Step, ...]:
    """Add all steps of the sources and return those with rewards: two of each source.

    Raises ConfigError when a slice of the prompts is too small, before anything is drawn.
    """
    slices_of(builder.prompt_ids, allocation.pilot_fraction, allocation.audit_fraction, builder.config.run.seed)
    sources = builder.config.sources
    first = [
        builder.drawn_and_scored("first-", source, prompts, _first(builder, allocation, source, prompts))
        for source in sources
    ]
    decided = builder.add(_allocate(builder, allocation, prompts, first))
    further = [builder.drawn_and_scored("", source, prompts, _further(builder, source, decided)) for source in sources]
    return tuple(scored for _, scored in (*first, *further))


def _first(builder: Builder, allocation: AllocationConfig, source: SourceConfig, prompts: Step) -> Draws:
    seed, num_samples = builder.config.run.seed, source.sampling.num_samples
    decisive = {"policy", "pilot_fraction", "audit_fraction"}
    identity = {"load": "first", **allocation.model_dump(mode="json", include=decisive)}
    return Draws(identity, (), lambda: FirstRequests(str(builder.folder(prompts)), allocation, seed, num_samples))


def _further(builder: Builder, source: SourceConfig, decided: Step) -> Draws:
    folder = builder.folder
    return Draws({"load": "further"}, (decided,), lambda: FurtherRequests(str(folder(decided)), source.name))


def _allocate(builder: Builder, allocation: AllocationConfig, prompts: Step, first: list[tuple[Step, Step]]) -> Step:
    config = builder.config

    def run(folder: Location) -> StepResult:
        loads = [
            FirstLoad(source.name, source.sampling.num_samples, builder.folder(drawn), builder.folder(scored))
            for source, (drawn, scored) in zip(config.sources, first, strict=True)
        ]
        return allocate(allocation, config.run.seed, builder.folder(prompts), loads, config.rows, folder)

    identity = {
        **builder.selection_identity,
        "allocation": allocation.model_dump(mode="json"),
        "num_samples": [source.sampling.num_samples for source in config.sources],
        "seed": config.run.seed,
    }
    inputs = (prompts, *(step for pair in first for step in pair))
    return Step("allocate", identity, inputs, run)
