"""An engine whose work is done by actors in the bundles of its placement group, as vLLM's workers are."""

from __future__ import annotations

import os
from typing import Any

import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from tests.faults.fake_engine import FakeGenerator
from wrpo_ray.config import ModelConfig
from wrpo_ray.engines.groups import given_group


class Holder:
    """Holds the GPU of one bundle."""

    def where(self) -> tuple[str, int]:
        """Return the node that it lies on, and its process."""
        return ray.get_runtime_context().get_node_id(), os.getpid()


class SpanningGenerator(FakeGenerator):
    """Takes every bundle of the group that it is given, and notes on which nodes they lie; without one it is alone."""

    def __init__(self, folder: str, model: ModelConfig, run_seed: int, identity: str) -> None:
        group = given_group()
        self.holders: list[Any] = []
        if group is not None:
            # As vLLM does: the address comes from RAY_ADDRESS.
            ray.init(log_to_driver=False)
            self.holders = [self._holder(group, index) for index in range(group.bundle_count)]
        super().__init__(folder, model, run_seed, identity)
        places = ray.get([holder.where.remote() for holder in self.holders])
        self.faults.note("holders", nodes=[node for node, _ in places], pids=[pid for _, pid in places])

    def _holder(self, group: Any, index: int) -> Any:
        strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index)
        return ray.remote(Holder).options(num_cpus=0, num_gpus=1, scheduling_strategy=strategy).remote()
