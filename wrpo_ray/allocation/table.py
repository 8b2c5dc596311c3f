"""Rewards by prompt, source and sample, as far as they have been drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wrpo_ray.allocation.prompt_ids import PromptIds, taken
from wrpo_ray.errors import DataError


@dataclass(frozen=True)
class RewardTable:
    """Arrays of [prompts, sources, samples], prompts in order of prompt_id, sources as the config lists them.

    drawn: the response was asked for and its cost is spent. present: it has a reward; where not, `rewards` holds 0.
    tokens: of the response, 0 where none was drawn. num_samples: how many responses a source may draw to a prompt.
    """

    prompt_ids: Sequence[str]
    sources: tuple[str, ...]
    num_samples: tuple[int, ...]
    rewards: np.ndarray
    tokens: np.ndarray
    drawn: np.ndarray
    present: np.ndarray

    def __post_init__(self) -> None:
        if not np.isfinite(self.rewards).all():
            raise DataError(
                "a reward table holds rewards that are not finite", code="WRPO-D040", help="leave them out as missing"
            )

    def rows(self, chosen: np.ndarray) -> RewardTable:
        """Return the table of the prompts that the boolean array (or array of numbers) `chosen` selects."""
        numbers = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
        return RewardTable(
            taken(self.prompt_ids, numbers), self.sources, self.num_samples,
            *(each[numbers] for each in self._arrays),
        )  # fmt: skip

    def masked(self, visible: np.ndarray) -> RewardTable:
        """Return the table as it is when only `visible` (boolean [prompts, sources, samples]) has been drawn."""
        drawn, present = self.drawn & visible, self.present & visible
        rewards, tokens = np.where(present, self.rewards, 0.0), np.where(drawn, self.tokens, 0)
        return RewardTable(self.prompt_ids, self.sources, self.num_samples, rewards, tokens, drawn, present)

    def rotated(self, shift: int) -> RewardTable:
        """Return the table with another sample of each source as its first one: samples are exchangeable."""
        number = np.arange(self.rewards.shape[2])
        counts = np.asarray(self.num_samples)[:, None]
        order = np.where(number < counts, (number + shift) % counts, number)[None]
        arrays = (np.take_along_axis(each, order, axis=2) for each in self._arrays)
        return RewardTable(self.prompt_ids, self.sources, self.num_samples, *arrays)

    @property
    def _arrays(self) -> tuple[np.ndarray, ...]:
        return self.rewards, self.tokens, self.drawn, self.present

    def within(self) -> np.ndarray:
        """Return which places of the arrays a source has at all: a boolean [sources, samples]."""
        return np.arange(self.rewards.shape[2]) < np.asarray(self.num_samples)[:, None]

    def best(self) -> np.ndarray:
        """Return the best reward of each prompt: [prompts], -inf where a prompt has none."""
        return np.where(self.present, self.rewards, -np.inf).max(axis=(1, 2), initial=-np.inf)


class TableBuilder:
    """Takes responses and rewards in any order, and never holds more than the table's arrays and the prompt_ids.

    Its methods raise DataError for a response that is there twice or has no place in the table.
    """

    def __init__(self, prompt_ids: PromptIds, sources: Sequence[str], num_samples: Sequence[int]) -> None:
        """prompt_ids: of all prompts, those without responses included."""
        self.prompt_ids, self.sources, self.num_samples = prompt_ids, tuple(sources), tuple(num_samples)
        shape = (len(self.prompt_ids), len(self.sources), max(self.num_samples))
        self.rewards, self.tokens = np.zeros(shape), np.zeros(shape, dtype=np.int32)
        self.drawn, self.present = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
        self._sources = {source: number for number, source in enumerate(self.sources)}

    def response(self, prompt_id: str, source: str, sample_index: int, num_tokens: int) -> None:
        """Note a response; an endpoint that does not count its tokens is taken to give one."""
        place = self._place(prompt_id, source, sample_index)
        _require(not self.drawn[place], prompt_id, source, sample_index, "is there twice")
        self.drawn[place], self.tokens[place] = True, max(1, num_tokens)

    def reward(self, prompt_id: str, source: str, sample_index: int, reward: float) -> None:
        """Note the reward of a response that has been noted and may be chosen."""
        place = self._place(prompt_id, source, sample_index)
        _require(bool(self.drawn[place]), prompt_id, source, sample_index, "has a reward but was not drawn")
        _require(not self.present[place], prompt_id, source, sample_index, "has two rewards")
        self.present[place], self.rewards[place] = True, reward

    def table(self) -> RewardTable:
        """Return what has been noted."""
        return RewardTable(
            self.prompt_ids, self.sources, self.num_samples, self.rewards, self.tokens, self.drawn, self.present
        )

    def _place(self, prompt_id: str, source: str, sample_index: int) -> tuple[int, int, int]:
        place, number = self.prompt_ids.find(prompt_id), self._sources.get(source)
        if place is None or number is None:
            raise _unfit(prompt_id, source, sample_index, "is of a prompt or a source that the run does not have")
        rule = f"has a sample_index outside of 0 .. {self.num_samples[number] - 1}"
        _require(0 <= sample_index < self.num_samples[number], prompt_id, source, sample_index, rule)
        return place, number, sample_index


def _require(holds: bool, prompt_id: str, source: str, sample_index: int, rule: str) -> None:
    if not holds:
        raise _unfit(prompt_id, source, sample_index, rule)


def _unfit(prompt_id: str, source: str, sample_index: int, rule: str) -> DataError:
    return DataError(
        f"response {prompt_id}:{source}:{sample_index} {rule}", code="WRPO-D040",
        help="`wrpo-ray inspect RUN` tells which files of the run are not what they were",
    )  # fmt: skip
