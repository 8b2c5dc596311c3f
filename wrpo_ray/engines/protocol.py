"""What the distributed edges ask of an engine."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from wrpo_ray.chat import ChatTokenizer
from wrpo_ray.errors import DataError
from wrpo_ray.schema import Prompt, Response

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """One response to be scored, with the prompt that it answers."""

    prompt: Prompt
    text: str


def encode_fitting(answers: Sequence[Answer], chat: ChatTokenizer, max_tokens: int) -> dict[int, list[int]]:
    """Return the ids of each answer with its prompt, by position, for those that the reward model can hold.

    An answer that is too long, or that the chat template refuses, is left out: its reward is NaN, which is counted.
    """
    fitting: dict[int, list[int]] = {}
    for position, answer in enumerate(answers):
        try:
            ids = chat.encode_conversation(answer.prompt.messages, answer.text)
        except DataError as error:
            log.warning("an answer to prompt %s cannot be scored: %s", answer.prompt.prompt_id, error)
            continue
        if len(ids) <= max_tokens:
            fitting[position] = ids
    return fitting


class Generator(Protocol):
    """Draws responses from one model."""

    def generate(self, prompts: Sequence[Prompt]) -> list[Response]:
        """Return num_samples responses per prompt that fits, in order; none for a prompt that does not."""
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
