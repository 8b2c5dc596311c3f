"""The answers of finished sampling and scoring steps, as comparisons see them.

A model may have several samples per prompt: a reward or a rule compares the means over them, a judge sees the first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from wrpo_ray.config import VerifierRewardConfig
from wrpo_ray.evaluate.pairwise import Answered
from wrpo_ray.schema import Prompt, Response, ScoredResponse
from wrpo_ray.storage.location import Location
from wrpo_ray.storage.tables import iter_rows
from wrpo_ray.verifier import verify


@dataclass
class _Gathered:
    """What has been read of one model, by prompt_id."""

    values: dict[str, list[float]] = field(default_factory=dict)
    lengths: dict[str, list[int]] = field(default_factory=dict)
    num_answers: int = 0
    num_tokens: int = 0

    def add(self, row: Response | ScoredResponse, value: float) -> None:
        self.values.setdefault(row.prompt_id, []).append(value)
        self.lengths.setdefault(row.prompt_id, []).append(len(row.text))
        self.num_answers += 1
        self.num_tokens += row.num_tokens

    def finished(self) -> Answered:
        values = {prompt_id: _mean(of_prompt) for prompt_id, of_prompt in self.values.items()}
        lengths = {prompt_id: _mean(of_prompt) for prompt_id, of_prompt in self.lengths.items()}
        return Answered(values, lengths, self.num_answers, self.num_tokens)


def _mean(values: list[float] | list[int]) -> float:
    """Equal values in another order have an equal sum, so that they tie."""
    return math.fsum(values) / len(values)


def rewarded(scored: Iterable[Location], models: Iterable[str]) -> dict[str, Answered]:
    """Return by model the rewards of finished scoring steps; rewards that are not finite are left out."""
    gathered = {model: _Gathered() for model in models}
    for step in scored:
        for rows in iter_rows(step, ScoredResponse):
            for row in rows:
                if math.isfinite(row.reward):
                    gathered[row.source].add(row, row.reward)
    return {model: of_model.finished() for model, of_model in gathered.items()}


def verified(drawn: Mapping[str, Location], prompts: Location, rule: VerifierRewardConfig) -> dict[str, Answered]:
    """Return by model what `rule` gives its responses, on prompts with a reference answer.

    drawn: finished sampling steps by model.
    """
    references = {row.prompt_id: row.answer for rows in iter_rows(prompts, Prompt) for row in rows}
    gathered = {model: _Gathered() for model in drawn}
    for step in drawn.values():
        for rows in iter_rows(step, Response):
            for row in rows:
                if (reference := references.get(row.prompt_id)) is not None:
                    gathered[row.source].add(row, verify(row.text, reference, rule))
    return {model: of_model.finished() for model, of_model in gathered.items()}


def first_answers(drawn: Mapping[str, Location]) -> dict[str, dict[str, Response]]:
    """Return by model and prompt_id the response of the smallest sample_index of finished sampling steps."""
    return {model: _first(row for rows in iter_rows(step, Response) for row in rows) for model, step in drawn.items()}


def _first(rows: Iterator[Response]) -> dict[str, Response]:
    first: dict[str, Response] = {}
    for row in rows:
        known = first.get(row.prompt_id)
        if known is None or row.sample_index < known.sample_index:
            first[row.prompt_id] = row
    return first
