"""What the distributed edges ask of an engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from wrpo_ray.schema import Prompt, Response


@dataclass(frozen=True, slots=True)
class Answer:
    """One response to be scored, with the prompt that it answers."""

    prompt: Prompt
    text: str


class Generator(Protocol):
    """Draws responses from one model."""

    def generate(self, prompts: Sequence[Prompt]) -> list[Response]:
        """Return num_samples responses per prompt that fits, in order; none for a prompt that is too long."""
        ...

    def close(self) -> None:
        """Free the engine and its memory."""
        ...


class Scorer(Protocol):
    """Gives each answer a raw reward."""

    def score(self, answers: Sequence[Answer]) -> list[float]:
        """Return one reward per answer, in order; NaN for an answer that the reward model cannot hold."""
        ...

    def close(self) -> None:
        """Free the engine and its memory."""
        ...
