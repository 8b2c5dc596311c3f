"""Which rows each worker sees in which forward pass, and how token ids become padded tensors.

The plan depends on (rows, seed, step) and on sizes alone, so a resumed run goes on with the very next rows. Every rank
gets equally many micro-batches: one without rows of its own takes a repeat of weight 0, which counts neither in the
loss nor in what it is divided by.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from wrpo_ray.packing import best_fit, spread_over_ranks
from wrpo_ray.schema import stable_hash

Fit = Callable[[Sequence[int], int], list[list[int]]]


@dataclass(frozen=True)
class BatchSizes:
    """Rows of one optimizer step, tokens of one forward pass on one worker, and workers."""

    global_batch_size: int
    micro_batch_tokens: int
    num_workers: int


@dataclass(frozen=True)
class MicroBatch:
    """Rows of one forward pass, and for each whether it is real (1.0) or a repeat that fills the batch (0.0)."""

    rows: tuple[int, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True)
class StepPlan:
    """One optimizer step: the real rows of the whole global batch, and the micro-batches of every rank."""

    rows: tuple[int, ...]
    ranks: tuple[tuple[MicroBatch, ...], ...]


class PaddedBatch(NamedTuple):
    """Right-padded sequences: token ids, attention mask (1 on tokens) and response mask, each [sequences, length]."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    response_mask: torch.Tensor

    @property
    def num_sequences(self) -> int:
        """Responses, each with its prompt."""
        return len(self.input_ids)

    @property
    def num_response_tokens(self) -> torch.Tensor:
        """Tokens of each response, int64 [sequences]."""
        return self.response_mask.sum(dim=1)

    def to(self, device: torch.device) -> PaddedBatch:
        """Return the batch on `device`."""
        return PaddedBatch(*(tensor.to(device, non_blocking=True) for tensor in self))


def num_steps_per_epoch(num_rows: int, global_batch_size: int) -> int:
    """Return the optimizer steps of one epoch, the last incomplete global batch included."""
    return -(-num_rows // global_batch_size)


def epoch_order(num_rows: int, seed: int, epoch: int) -> list[int]:
    """Return the order of the rows in an epoch: a permutation that is the same on every machine."""
    generator = torch.Generator().manual_seed(stable_hash("epoch_order", seed, epoch) % 2**63)
    return torch.randperm(num_rows, generator=generator).tolist()


def plan_step(
    step_in_epoch: int, order: Sequence[int], sizes: BatchSizes, row_tokens: Sequence[int], fit: Fit = best_fit
) -> StepPlan:
    """Return what every rank does in one optimizer step (0-based) of an epoch with that row order.

    row_tokens: what each row costs in a forward pass. fit: puts rows into bins of at most `micro_batch_tokens`; one bin
    is one micro-batch. The rows of a step do not depend on how they are spread.
    """
    first = step_in_epoch * sizes.global_batch_size
    rows = tuple(order[first : first + sizes.global_batch_size])
    costs = [row_tokens[row] for row in rows]
    spread = spread_over_ranks(fit(costs, sizes.micro_batch_tokens), costs, sizes.num_workers)
    shortest = rows[costs.index(min(costs))]
    ranks = tuple(
        tuple(_micro_batch([rows[number] for number in numbers], shortest) for numbers in bins) for bins in spread
    )
    return StepPlan(rows, ranks)


def _micro_batch(rows: list[int], filler: int) -> MicroBatch:
    return MicroBatch(tuple(rows), (1.0,) * len(rows)) if rows else MicroBatch((filler,), (0.0,))


def pad_sequences(
    prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], pad_token_id: int
) -> PaddedBatch:
    """Return the sequences prompt + response, padded on the right to the longest; int64 [sequences, length]."""
    length = max(len(prompt) + len(response) for prompt, response in zip(prompts, responses, strict=True))
    input_ids = torch.full((len(prompts), length), pad_token_id, dtype=torch.int64)
    attention_mask = torch.zeros((len(prompts), length), dtype=torch.int64)
    response_mask = torch.zeros((len(prompts), length), dtype=torch.bool)
    for index, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        end = len(prompt) + len(response)
        input_ids[index, :end] = torch.tensor([*prompt, *response], dtype=torch.int64)
        attention_mask[index, :end] = 1
        response_mask[index, len(prompt) : end] = True
    return PaddedBatch(input_ids, attention_mask, response_mask)


def cut_response(prompt_length: int, response: list[int], max_length: int) -> list[int]:
    """Return the response without what exceeds `max_length` tokens together with its prompt (end token included)."""
    return response[: max_length - prompt_length]
