"""The section `evaluation.judge`: a language model behind an endpoint that compares answers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from wrpo_ray.config_base import NonNegativeFloat, PositiveInt
from wrpo_ray.config_models import OpenAISourceConfig, SamplingConfig


class JudgeSamplingConfig(SamplingConfig):
    """How verdicts are drawn: one per question, greedily."""

    num_samples: Literal[1] = 1
    temperature: NonNegativeFloat = 0.0
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    max_tokens: PositiveInt = 1024
    """Of the reasons and the verdict together; a verdict that does not fit is undecided."""


class JudgeConfig(OpenAISourceConfig):
    """A judge behind an OpenAI-compatible endpoint, described as a source of type openai is.

    Each pair of answers is a question in either order.
    """

    type: Literal["openai"] = "openai"
    sampling: JudgeSamplingConfig = JudgeSamplingConfig()
    template: str | None = None
    """Path of a text file that replaces the question's own wording; docs/evaluation.md says what it must hold."""
