"""What a step that is cut into shards consists of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from wrpo_ray.config import FaultsConfig, ResourcesConfig, RowsConfig
from wrpo_ray.data.budget import Judge, no_judge
from wrpo_ray.storage.ledger import Commit, Shard
from wrpo_ray.storage.location import Location


@dataclass(frozen=True)
class ShardedWork:
    """A step's work: its shards, and what bounds it.

    num_rows: rows of the whole step, of which the budget is a share. describe: JSON values that tell a worker its
    shard. judge: asked before the step is stopped because of the rows set aside, and when it ends.
    shards_in_flight: how many one replica works on at a time, so that its engine never drains between two of them.
    on_commit: gets every commit, in the order of the shards, when the step ends.
    """

    title: str
    folder: Location
    shards: Sequence[Shard]
    num_rows: int
    resources: ResourcesConfig
    faults: FaultsConfig
    rows: RowsConfig
    describe: Callable[[Shard], dict[str, Any]]
    judge: Judge = no_judge
    shards_in_flight: int = 1
    on_commit: Callable[[Commit], None] = lambda commit: None
