"""Rows to token tensors, and which rows each worker sees at each optimizer step.

The plan follows from (seed, epoch, step) alone. A global batch that is not full is filled up with repeats of weight 0,
so that every worker does the same number of passes, no row is dropped, and a mean over the batch counts real rows only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wrpo_ray.chat import ChatTokenizer
from wrpo_ray.schema import Message, stable_hash


@dataclass(frozen=True, slots=True)
class TokenizedRow:
    """A prompt and its responses as token ids: one response for SFT, three for a quadruple."""

    prompt_id: str
    prompt: list[int]
    responses: tuple[list[int], ...]

    @property
    def num_response_tokens(self) -> int:
        return sum(map(len, self.responses))


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded tensors of shape [responses * rows, length]: all first responses, then all second ones, and so on.

    Two rows "p" + "ab" / "p" + "c" with two responses each stand as [p1 a, p2 a, p1 b, p2 b], padded on the right.
    """

    input_ids: Tensor
    attention_mask: Tensor
    response_mask: Tensor


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Rows of one forward pass, by number, and the weight of each: 1, or 0 for a repeat that only fills up."""

    rows: list[int]
    weights: list[float]


def tokenize_row(
    prompt_id: str,
    messages: Sequence[Message],
    responses: Sequence[str],
    chat: ChatTokenizer,
    max_length: int,
    max_prompt_length: int,
) -> tuple[TokenizedRow | None, int]:
    """Return the row (None when its prompt is too long) and the number of responses that were cut.

    A response that does not fit is cut on its own and then has no end token: it is not over.
    """
    prompt = chat.encode_prompt(messages)
    if len(prompt) > max_prompt_length:
        return None, 0
    room = max_length - len(prompt)
    encoded = [chat.encode_response(text) for text in responses]
    num_cut = sum(len(ids) > room for ids in encoded)
    return TokenizedRow(prompt_id, prompt, tuple(ids[:room] for ids in encoded)), num_cut


def collate(rows: Sequence[TokenizedRow], pad_token_id: int) -> Batch:
    """Return the padded tensors of `rows`; see Batch for their order."""
    num_responses = len(rows[0].responses)
    pairs = [(row.prompt, row.responses[number]) for number in range(num_responses) for row in rows]
    width = max(len(prompt) + len(response) for prompt, response in pairs)
    input_ids = torch.full((len(pairs), width), pad_token_id, dtype=torch.long)
    attention_mask = torch.zeros((len(pairs), width), dtype=torch.long)
    response_mask = torch.zeros((len(pairs), width), dtype=torch.bool)
    for number, (prompt, response) in enumerate(pairs):
        length = len(prompt) + len(response)
        input_ids[number, :length] = torch.tensor(prompt + response)
        attention_mask[number, :length] = 1
        response_mask[number, len(prompt) : length] = True
    return Batch(input_ids, attention_mask, response_mask)


def steps_per_epoch(num_rows: int, global_batch_size: int) -> int:
    """Return the number of optimizer steps of one epoch; the last one may be smaller."""
    return math.ceil(num_rows / global_batch_size)


def rows_of_step(num_rows: int, global_batch_size: int, seed: int, step: int) -> list[int]:
    """Return the rows of optimizer step `step` (counted over all epochs), in the order of that epoch's permutation."""
    epoch, position = divmod(step, steps_per_epoch(num_rows, global_batch_size))
    generator = torch.Generator().manual_seed(stable_hash("epoch", seed, epoch) >> 1)
    order = torch.randperm(num_rows, generator=generator).tolist()
    return order[position * global_batch_size : (position + 1) * global_batch_size]


def micro_batches(
    rows: Sequence[int], global_batch_size: int, micro_batch_size: int, rank: int, world_size: int
) -> list[MicroBatch]:
    """Return the passes of worker `rank`: its equal part of the global batch, in pieces of micro_batch_size rows."""
    num_missing = global_batch_size - len(rows)
    slots = [(row, 1.0) for row in rows] + [(rows[0], 0.0)] * num_missing
    share = global_batch_size // world_size
    own = slots[rank * share : (rank + 1) * share]
    pieces = [own[start : start + micro_batch_size] for start in range(0, share, micro_batch_size)]
    return [MicroBatch([row for row, _ in piece], [weight for _, weight in piece]) for piece in pieces]
