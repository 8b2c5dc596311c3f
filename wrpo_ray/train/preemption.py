"""Notices that a node of the worker group is about to be taken away."""

from __future__ import annotations

import logging

import ray.train

log = logging.getLogger(__name__)


class PreemptionWatch:
    """Tells once of every notice, to all ranks in the same step: it is Ray Train's rank 0 that decides.

    Ray's drain notices come this way (`ray.train.get_preemption_info`, alpha in Ray 2.60,
    ray/train/v2/_internal/callbacks/preemption_callback.py).
    """

    def __init__(self) -> None:
        self._seen: frozenset[str] = frozenset()

    def noticed(self) -> bool:
        """Tell whether nodes are to go that were not to go before; all ranks must call it equally often."""
        info = ray.train.get_preemption_info()
        nodes = frozenset(info.preempted_node_ids) if info is not None else frozenset()
        new = nodes - self._seen
        self._seen |= nodes
        if new and info is not None:
            log.warning("ranks %s lose their node by %s ms: saving now", info.preempted_ranks, info.deadline_ms)
        return bool(new)
