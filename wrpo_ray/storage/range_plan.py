"""Shards that are ranges of lists which nobody has to hold: the driver knows how long each list is, and its hash."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from wrpo_ray.errors import StorageError, WrpoError
from wrpo_ray.schema import stable_hash
from wrpo_ray.storage.ledger import Shard, stored_plan
from wrpo_ray.storage.location import Location


@dataclass(frozen=True)
class ItemList:
    """Items in an order of their own. content: names them and the order, as a hash does."""

    content: str
    num_items: int


@dataclass(frozen=True)
class RangeShard(Shard):
    """The items from `start` to before `stop` of a list; `items` are known to the worker alone, that reads the list."""

    content: str
    start: int
    stop: int

    @property
    def name(self) -> str:
        return f"shard-{self.number:06d}-{stable_hash('range', self.content, self.start, self.stop):016x}"

    @property
    def num_items(self) -> int:
        return self.stop - self.start


def planned_ranges(folder: Location, lists: Sequence[ItemList], items_per_shard: int) -> list[RangeShard]:
    """Return the shards of a step, none across two lists; errors, and what holds once work has begun, as in `planned`.

    What is held grows with the number of shards.
    """
    contents = [each.content for each in lists]
    if len(set(contents)) != len(contents):
        raise WrpoError(f"{folder}: {len(contents) - len(set(contents))} lists are there twice", code="WRPO-B004")
    sizes = [
        min(items_per_shard, each.num_items - start)
        for each in lists
        for start in range(0, each.num_items, items_per_shard)
    ]
    digest = hashlib.sha256("\n".join(f"{each.num_items} {each.content}" for each in lists).encode("utf-8"))
    return _laid_out(folder, lists, stored_plan(folder, digest.hexdigest(), sizes))


def _laid_out(folder: Location, lists: Sequence[ItemList], sizes: Sequence[int]) -> list[RangeShard]:
    """Return shards of these sizes, list after list."""
    shards: list[RangeShard] = []
    for each in lists:
        start = 0
        while start < each.num_items and len(shards) < len(sizes):
            stop = start + sizes[len(shards)]
            shards.append(RangeShard(len(shards), (), each.content, start, stop))
            start = stop
        if start != each.num_items:
            raise StorageError(f"{folder / 'plan.json'} does not fit the lists that it was made for", code="WRPO-S018")
    return shards
