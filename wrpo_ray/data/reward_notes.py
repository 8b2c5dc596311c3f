"""What a scoring step says about its rewards, added up from notes that each shard's commit carries.

The driver reads no reward and no text: workers note sums and, up to a bound, the different values.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from wrpo_ray.schema import ScoredResponse

MAX_DISTINCT_REWARDS = 100
# Fewer different answers may share a reward by chance or rounding.
MIN_ANSWERS_TO_DIFFER = 32


def reward_notes(scored: Sequence[ScoredResponse]) -> dict[str, Any]:
    """Return the notes of one shard: number and sum of its rewards, and different ones.

    Different texts are noted (by hash) only of a shard whose rewards are all the same: else they tell nothing.
    """
    rewards = [row.reward for row in scored]
    distinct = sorted(set(rewards))[:MAX_DISTINCT_REWARDS]
    notes = {"num_rewards": len(rewards), "reward_sum": math.fsum(rewards), "distinct_rewards": distinct}
    if len(distinct) == 1:
        notes["distinct_texts"] = sorted({_digest(row.text) for row in scored})[:MIN_ANSWERS_TO_DIFFER]
    return notes


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


class RewardNotes:
    """Adds up the notes of all shards."""

    def __init__(self) -> None:
        self.num_rewards = 0
        self._sums: list[float] = []
        self._rewards: set[float] = set()
        self._texts: set[str] = set()

    def add(self, notes: Mapping[str, Any]) -> None:
        """Take one shard's notes."""
        if notes.get("num_rewards"):
            self.num_rewards += notes["num_rewards"]
            self._sums.append(notes["reward_sum"])
            self._rewards = set(sorted(self._rewards | set(notes["distinct_rewards"]))[:MAX_DISTINCT_REWARDS])
            self._texts = set(sorted(self._texts | set(notes.get("distinct_texts", ())))[:MIN_ANSWERS_TO_DIFFER])

    @property
    def mean(self) -> float | None:
        return math.fsum(self._sums) / self.num_rewards if self.num_rewards else None

    @property
    def num_distinct(self) -> int:
        """How many different rewards there are, counted up to MAX_DISTINCT_REWARDS."""
        return len(self._rewards)

    @property
    def only_reward(self) -> float | None:
        """The one reward that many different responses have, or None when rewards or responses do not tell that."""
        if len(self._rewards) == 1 and len(self._texts) >= MIN_ANSWERS_TO_DIFFER:
            return next(iter(self._rewards))
        return None
