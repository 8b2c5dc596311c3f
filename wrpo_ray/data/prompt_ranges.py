"""Sampling steps cut into ranges of lists of prompts: a shard says where its prompts lie, its worker reads them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wrpo_ray.errors import WrpoError
from wrpo_ray.prompt_layout import prompt_files
from wrpo_ray.schema import Split
from wrpo_ray.storage.ledger import Shard
from wrpo_ray.storage.location import Location
from wrpo_ray.storage.range_plan import ItemList, RangeShard, planned_ranges


@dataclass(frozen=True)
class PromptList(ItemList):
    """A list of prompts to sample from, in the file `path`. num_requests: samples that are drawn of all of them."""

    path: str
    num_requests: int


def lists_of_splits(prompts: Location, splits: Sequence[Split], num_samples: int) -> list[PromptList]:
    """Return the prompts of some splits, a list for each file of the finished prompts step that has any."""
    lists = []
    for file in prompt_files(prompts):
        if num_prompts := sum(file.num_by_split.get(split, 0) for split in splits):
            content = f"{file.ids_sha256} {','.join(splits)}"
            lists.append(PromptList(content, num_prompts, file.entry.path, num_prompts * num_samples))
    return lists


def range_shards(
    folder: Location, lists: Sequence[PromptList], prompts_per_shard: int
) -> tuple[list[RangeShard], Callable[[Shard], dict[str, Any]]]:
    """Return the shards of a step, and what tells a worker its shard; raises what range_plan.planned_ranges does."""
    paths = {each.content: each.path for each in lists}
    return planned_ranges(folder, lists, prompts_per_shard), functools.partial(_describe, paths)


def _describe(paths: Mapping[str, str], shard: Shard) -> dict[str, Any]:
    assert isinstance(shard, RangeShard)
    return {
        "number": shard.number,
        "path": paths[shard.content],
        "content": shard.content,
        "start": shard.start,
        "stop": shard.stop,
    }


def described_shard(description: Mapping[str, Any], prompt_ids: Sequence[str]) -> RangeShard:
    """Return the shard that was described, with its items. prompt_ids: of the whole list."""
    start, stop = description["start"], description["stop"]
    shard = RangeShard(description["number"], tuple(prompt_ids[start:stop]), description["content"], start, stop)
    if len(shard.items) != shard.num_items:
        raise WrpoError(
            f"{shard.name} is to have the rows {start} to {stop} of {len(prompt_ids)} in {description['path']}",
            code="WRPO-B002",
        )
    return shard
