"""The ranks of a training run: which one this process is, and what they tell one another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import torch.distributed as distributed

Value = TypeVar("Value")


@dataclass(frozen=True)
class Ranks:
    """This process among all ranks, and among those of its node. All ranks must make the same calls in one order."""

    rank: int
    size: int
    local_rank: int
    local_size: int

    def gathered(self, value: Value) -> list[Value]:
        """Return the values of all ranks, by rank."""
        if self.size == 1:
            return [value]
        parts: list[Any] = [None] * self.size
        distributed.all_gather_object(parts, value)
        return parts

    def first(self, value: Value) -> Value:
        """Return rank 0's value."""
        if self.size == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, src=0)
        return box[0]

    def wait(self) -> None:
        """Return when all ranks have come here."""
        if self.size > 1:
            distributed.barrier()


def current_ranks() -> Ranks:
    """Return the ranks of the Ray Train worker group that this process belongs to."""
    import ray.train

    context = ray.train.get_context()
    return Ranks(
        context.get_world_rank(), context.get_world_size(), context.get_local_rank(), context.get_local_world_size()
    )
