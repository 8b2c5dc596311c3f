"""vLLM's workers as actors in the placement group that this engine was given."""

from __future__ import annotations

from vllm.v1.executor.ray_executor_v2 import RayExecutorV2

from wrpo_ray.engines.groups import given_group


class SpanningExecutor(RayExecutorV2):
    """Ray's executor of vLLM, kept from making a placement group of its own that nobody would remove.

    vLLM takes the group that its process lies in, and an engine process of ours lies in none
    (vllm/v1/executor/ray_utils.py::initialize_ray_cluster, 0.32). RAY_ADDRESS leads it to the cluster.
    """

    def _init_executor(self) -> None:
        """See vllm.v1.executor.abstract.Executor; called in the process of the engine's core."""
        self.parallel_config.placement_group = given_group()
        super()._init_executor()
