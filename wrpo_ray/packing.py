"""Prompts laid out once with all of their responses behind them, and which rows share one forward pass.

A quadruple is one prompt and three responses: [P y_ws y_wt y_l]. Several of them stand one after another in one row of
tokens, so that nothing is padded and no prompt goes through the network twice. Every response attends to its prompt and
to itself; its positions go on where the prompt ends. Source of the idea: https://arxiv.org/abs/2410.20305.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise

import torch


@dataclass(frozen=True)
class SharedPromptLayout:
    """Lengths, in tokens, of the prompt and the responses of every group, in the order in which they stand."""

    prompt_lengths: tuple[int, ...]
    response_lengths: tuple[tuple[int, ...], ...]

    @cached_property
    def segment_lengths(self) -> list[int]:
        """Tokens of each segment: the first group's prompt, its responses, the next group's prompt, ..."""
        groups = zip(self.prompt_lengths, self.response_lengths, strict=True)
        return [length for prompt, responses in groups for length in (prompt, *responses)]

    @property
    def num_tokens(self) -> int:
        """Tokens of the whole row."""
        return sum(self.segment_lengths)

    @property
    def num_sequences(self) -> int:
        """Responses of all groups."""
        return sum(len(lengths) for lengths in self.response_lengths)

    def groups(self) -> Iterator[tuple[range, list[range]]]:
        """Yield where each group's prompt and responses stand in the row."""
        start = 0
        for prompt_length, lengths in zip(self.prompt_lengths, self.response_lengths, strict=True):
            ends = list(accumulate(lengths, initial=start + prompt_length))
            yield range(start, ends[0]), [range(*pair) for pair in pairwise(ends)]
            start = ends[-1]


@dataclass(frozen=True)
class PackedBatch:
    """One row of tokens with shared prompts.

    input_ids, position_ids: int64 [tokens]. predicting: int64 [response tokens], for each response token the index of
    the token whose hidden state predicts it (the prompt's last one for a response's first token). targets: int64
    [response tokens], their ids. sequence_of: int64 [response tokens], the number of the response, counted through all
    groups.
    """

    layout: SharedPromptLayout
    input_ids: torch.Tensor
    position_ids: torch.Tensor
    predicting: torch.Tensor
    targets: torch.Tensor
    sequence_of: torch.Tensor

    @property
    def num_sequences(self) -> int:
        """Responses of all groups."""
        return self.layout.num_sequences

    @property
    def num_response_tokens(self) -> torch.Tensor:
        """Tokens of each response, int64 [sequences]."""
        lengths = [length for group in self.layout.response_lengths for length in group]
        return torch.tensor(lengths, device=self.targets.device)

    @property
    def last_tokens(self) -> torch.Tensor:
        """Where each response's last token stands in the row, int64 [sequences]; no response may be empty."""
        last = [place[-1] for _, places in self.layout.groups() for place in places]
        return torch.tensor(last, device=self.targets.device)

    def to(self, device: torch.device) -> PackedBatch:
        """Return the batch on `device`."""
        names = ("input_ids", "position_ids", "predicting", "targets", "sequence_of")
        return replace(self, **{name: getattr(self, name).to(device, non_blocking=True) for name in names})


def pack_groups(prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[Sequence[int]]]) -> PackedBatch:
    """Return the groups as one row; `responses[i]` are the token ids of all responses to `prompts[i]`.

    Responses may be empty and of any number; raises ValueError when a prompt is empty.
    """
    if not all(prompts):
        raise ValueError("a prompt has no tokens, so nothing predicts the first token of its responses")
    layout = SharedPromptLayout(tuple(map(len, prompts)), tuple(tuple(map(len, group)) for group in responses))
    positions: list[int] = []
    predicting: list[int] = []
    sequence_of: list[int] = []
    number = 0
    for prompt, places in layout.groups():
        positions += range(len(prompt))
        for place in places:
            positions += range(len(prompt), len(prompt) + len(place))
            predicting += [prompt[-1], *place][: len(place)]
            sequence_of += [number] * len(place)
            number += 1
    segments = [part for prompt, group in zip(prompts, responses, strict=True) for part in (prompt, *group)]
    targets = [token for group in responses for response in group for token in response]
    return PackedBatch(
        layout,
        input_ids=_ids([token for part in segments for token in part]),
        position_ids=_ids(positions),
        predicting=_ids(predicting),
        targets=_ids(targets),
        sequence_of=_ids(sequence_of),
    )


def _ids(values: list[int]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64)


def best_fit(num_tokens: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Return the numbers of the rows in bins of at most `max_tokens`: longest first, each into the fullest bin it fits.

    A row longer than `max_tokens` makes a bin of its own. [6, 5, 4, 3] with 10 tokens gives [[0, 2], [1, 3]].
    """
    bins: list[list[int]] = []
    # Free tokens of every bin that is not full, ascending, with its number.
    free: list[tuple[int, int]] = []
    for row in sorted(range(len(num_tokens)), key=lambda number: (-num_tokens[number], number)):
        place = bisect.bisect_left(free, (num_tokens[row], -1))
        if place == len(free):
            left, number = max_tokens, len(bins)
            bins.append([])
        else:
            left, number = free.pop(place)
        bins[number].append(row)
        if left > num_tokens[row]:
            bisect.insort(free, (left - num_tokens[row], number))
    return bins


def padded_fit(num_tokens: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Return the numbers of the rows in bins whose padded size is at most `max_tokens`, longest first.

    A row longer than `max_tokens` makes a bin of its own. [5, 2, 5, 2] with 10 tokens gives [[0, 2], [1, 3]].
    """
    bins: list[list[int]] = []
    for row in sorted(range(len(num_tokens)), key=lambda number: (-num_tokens[number], number)):
        if not bins or num_tokens[bins[-1][0]] * (len(bins[-1]) + 1) > max_tokens:
            bins.append([])
        bins[-1].append(row)
    return bins


def spread_over_ranks(bins: list[list[int]], num_tokens: Sequence[int], num_ranks: int) -> list[list[list[int]]]:
    """Return for every rank its bins, equally many for each: the fullest ones are split until the number comes out.

    The m-th bins of all ranks, which wait for one another, are of about equal size. A rank that is left without rows
    gets empty bins.
    """

    def size(rows: list[int]) -> int:
        return sum(num_tokens[row] for row in rows)

    bins = [list(rows) for rows in bins]
    while len(bins) % num_ranks:
        divisible = max((rows for rows in bins if len(rows) > 1), key=size, default=None)
        if divisible is None:
            bins.append([])
            continue
        bins.remove(divisible)
        bins += _halves(divisible, num_tokens)
    bins.sort(key=lambda rows: (-size(rows), rows))
    waves = [bins[first : first + num_ranks] for first in range(0, len(bins), num_ranks)]
    # Every other wave backwards, so that no rank always has the largest.
    turned = [wave[:: -1 if number % 2 else 1] for number, wave in enumerate(waves)]
    return [[wave[rank] for wave in turned] for rank in range(num_ranks)]


def _halves(rows: list[int], num_tokens: Sequence[int]) -> list[list[int]]:
    """Return the rows in two parts of about equally many tokens: longest first, each to the smaller part."""
    parts: list[list[int]] = [[], []]
    sizes = [0, 0]
    for row in sorted(rows, key=lambda number: (-num_tokens[number], number)):
        smaller = sizes.index(min(sizes))
        parts[smaller].append(row)
        sizes[smaller] += num_tokens[row]
    return parts
