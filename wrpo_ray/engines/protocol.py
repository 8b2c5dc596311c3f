"""What the distributed edges ask of an engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from wrpo_ray.chat import ChatTokenizer
from wrpo_ray.errors import DataError
from wrpo_ray.schema import Prompt, Response

Progress = Callable[[], None]
"""Called by an engine after each of its steps; one that stays silent for too long is taken for hung."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One response to be scored, with the prompt that it answers."""

    prompt: Prompt
    text: str


@dataclass(frozen=True, slots=True)
class SetAside:
    """Why a row has no result: its code, how many tries it failed, and the last error (never the row's text)."""

    code: str
    error: str
    attempts: int = 0


class Engine(Protocol):
    """What generators and scorers share."""

    def is_usable(self) -> bool:
        """Tell whether the engine can go on after a batch that raised an exception."""
        ...

    def close(self) -> None:
        """Free the engine and its memory."""
        ...


class CountingEngine(Engine, Protocol):
    """An engine with numbers of its own for the step's summary; engines need not be one."""

    def take_counts(self) -> dict[str, int]:
        """Return what was counted since this was last called."""
        ...


@dataclass(frozen=True, slots=True)
class BatchDone:
    """A finished batch of a StreamingEngine: one outcome per row, and numbers for the step's summary."""

    number: int
    outcomes: list[Any]
    counts: dict[str, int]


@dataclass(frozen=True, slots=True)
class BatchRefused:
    """A batch that a StreamingEngine could not take; it goes on with the others."""

    number: int
    error: str


@runtime_checkable
class StreamingEngine(Engine, Protocol):
    """An engine that works on several batches at once, so that it does not drain between them; engines need not be one.

    An exception in `prepared` concerns that batch alone, any other ends the work on all of them.
    """

    def prepared(self, rows: Sequence[Any]) -> Any:
        """Return what `add` takes; called in another thread while the engine works."""
        ...

    def add(self, number: int, prepared: Any) -> None:
        """Take in a batch, to be begun behind those that are there."""
        ...

    def is_busy(self) -> bool:
        """Tell whether a batch is not finished yet."""
        ...

    def step(self) -> list[BatchDone | BatchRefused]:
        """Do a little work, and return the batches that ended with it."""
        ...


class Generator(Engine, Protocol):
    """Draws responses from one model."""

    def generate(self, prompts: Sequence[Prompt], progress: Progress) -> list[list[Response] | SetAside]:
        """Return for each prompt, in order, its num_samples responses, or why it gets none."""
        ...


class Scorer(Engine, Protocol):
    """Gives each answer a raw reward."""

    def score(self, answers: Sequence[Answer], progress: Progress) -> list[float | SetAside]:
        """Return for each answer, in order, its reward, or why it gets none."""
        ...


def encode_fitting(
    answers: Sequence[Answer], chat: ChatTokenizer, max_tokens: int
) -> tuple[dict[int, list[int]], dict[int, SetAside]]:
    """Return by position the ids of the answers that the reward model can hold, and why it cannot hold the others."""
    fitting: dict[int, list[int]] = {}
    refused: dict[int, SetAside] = {}
    for position, answer in enumerate(answers):
        try:
            ids = chat.encode_conversation(answer.prompt.messages, answer.text)
        except DataError as error:
            refused[position] = SetAside("answer_template_refused", str(error))
            continue
        if len(ids) <= max_tokens:
            fitting[position] = ids
        else:
            refused[position] = SetAside("answer_too_long", f"{len(ids)} tokens, the reward model holds {max_tokens}")
    return fitting, refused
