"""Answers to the same prompt, as the beginning that their token ids share and what follows it in each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class AnswerGroup:
    """Answers of one forward pass that begin alike: `rests[i]` follows `prefix` in the answer at `positions[i]`."""

    positions: tuple[int, ...]
    prefix: list[int]
    rests: tuple[list[int], ...]

    @property
    def num_tokens(self) -> int:
        """Tokens that go through the network."""
        return len(self.prefix) + sum(map(len, self.rests))


def group_answers(
    encoded: Mapping[int, Sequence[int]], prompt_of: Mapping[int, str], max_tokens: int
) -> list[AnswerGroup]:
    """Return the answers of each prompt in groups of at most `max_tokens` tokens.

    encoded: token ids of prompt and answer by position; prompt_of: prompt_id by position. An answer that is longer
    makes a group of its own. Every rest has at least one token: its last one gives the reward.
    """
    by_prompt: dict[str, list[int]] = defaultdict(list)
    for position in encoded:
        by_prompt[prompt_of[position]].append(position)
    return [group for positions in by_prompt.values() for group in _cut(positions, encoded, max_tokens)]


def _cut(positions: Sequence[int], encoded: Mapping[int, Sequence[int]], max_tokens: int) -> Iterable[AnswerGroup]:
    answers = {position: list(encoded[position]) for position in positions}
    shared = _shared_length(list(answers.values()))
    prefix = answers[positions[0]][:shared]
    # Answers that begin with different tokens share nothing, so each goes alone.
    room = max_tokens - shared if shared else 0
    part: dict[int, list[int]] = {}
    for position, answer in answers.items():
        rest = answer[shared:]
        if part and sum(map(len, part.values())) + len(rest) > room:
            yield _group(part, prefix)
            part = {}
        part[position] = rest
    yield _group(part, prefix)


def _group(part: Mapping[int, list[int]], prefix: list[int]) -> AnswerGroup:
    rests = tuple(part.values())
    if prefix:
        return AnswerGroup(tuple(part), prefix, rests)
    (alone,) = rests
    return AnswerGroup(tuple(part), alone[:-1], (alone[-1:],))


def _shared_length(answers: Sequence[Sequence[int]]) -> int:
    """Return how many tokens all answers begin with alike, one less than the shortest has at most."""
    shortest = min(map(len, answers)) - 1
    columns = zip(*(answer[:shortest] for answer in answers), strict=True)
    return next((number for number, tokens in enumerate(columns) if len(set(tokens)) > 1), shortest)
