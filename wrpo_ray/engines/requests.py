"""Prompts that ask for something of their own: only some samples, or another temperature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wrpo_ray.config import SamplingConfig
from wrpo_ray.schema import Prompt


@dataclass(frozen=True, slots=True)
class RequestedPrompt(Prompt):
    """A prompt with the samples to draw; a sample does not depend on which others are drawn: its seed is its own."""

    sample_indices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TemperedPrompt(Prompt):
    """A prompt with the temperature that it is answered at, whatever the model's own."""

    temperature: float


def tempered(prompt: Prompt, temperature: float) -> TemperedPrompt:
    """Return the prompt with a temperature of its own."""
    return TemperedPrompt(prompt.prompt_id, prompt.messages, prompt.split, prompt.answer, temperature)


def sampling_of(prompt: Prompt, sampling: SamplingConfig) -> SamplingConfig:
    """Return how a prompt's responses are drawn: as `sampling` says, at the prompt's own temperature if it has one."""
    own = isinstance(prompt, TemperedPrompt)
    return sampling.model_copy(update={"temperature": prompt.temperature}) if own else sampling


def sample_indices(prompt: Prompt, num_samples: int) -> Sequence[int]:
    """Return which samples of a prompt to draw: 0 .. num_samples - 1 unless it asks for others."""
    return prompt.sample_indices if isinstance(prompt, RequestedPrompt) else range(num_samples)
