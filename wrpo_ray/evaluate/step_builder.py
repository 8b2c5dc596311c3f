"""What steps of the evaluation are built with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from wrpo_ray.config import FuseConfig, ModelConfig, SourceConfig
from wrpo_ray.engines.protocol import Generator
from wrpo_ray.steps import Step
from wrpo_ray.storage.location import Location


@dataclass(frozen=True)
class EvaluationBuilder:
    """What is used of the pipeline.

    models: those of the run itself, target, Target-SFT and fused model, each with the step that trained it, if one did.
    add: appends a step, after its inputs. folder: where a step's result lies or will lie.
    sample: adds the step that draws a model's responses to prompts, under a name; the last argument is the step that
    trained it, if one did. score: adds the step that scores some of them.
    make_generator: see data.sampling.SamplingJob.
    """

    config: FuseConfig
    models: Sequence[tuple[ModelConfig, Step | None]]
    add: Callable[[Step], Step]
    folder: Callable[[Step], Location]
    sample: Callable[[str, SourceConfig, Step, Step | None], Step]
    score: Callable[[str, Step, Sequence[Step]], Step]
    make_generator: Callable[..., Generator]

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.config.run.seed
