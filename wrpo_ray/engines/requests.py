"""Prompts of which only some samples are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wrpo_ray.schema import Prompt


@dataclass(frozen=True, slots=True)
class RequestedPrompt(Prompt):
    """A prompt with the samples to draw; a sample does not depend on which others are drawn: its seed is its own."""

    sample_indices: tuple[int, ...]


def sample_indices(prompt: Prompt, num_samples: int) -> Sequence[int]:
    """Return which samples of a prompt to draw: 0 .. num_samples - 1 unless it asks for others."""
    return prompt.sample_indices if isinstance(prompt, RequestedPrompt) else range(num_samples)
