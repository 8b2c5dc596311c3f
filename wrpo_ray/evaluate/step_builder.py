"""What steps of the evaluation are built with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from wrpo_ray.config import ModelConfig
from wrpo_ray.steps import Step
from wrpo_ray.storage.location import Location


@dataclass(frozen=True)
class Builder:
    """What is used of the pipeline.

    models: those that are evaluated, from target to fused, each with the step that trained it, if one did. add: appends
    a step, after its inputs. folder: where a step's result lies or will lie. sample: adds the step that draws the
    responses of a model to a prompts step, under a name.
    """

    run_name: str
    seed: int
    models: Sequence[tuple[ModelConfig, Step | None]]
    add: Callable[[Step], Step]
    folder: Callable[[Step], Location]
    sample: Callable[[str, ModelConfig, Step, Step | None], Step]
