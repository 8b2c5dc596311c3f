"""The next models' weights come to the nodes while the current ones work: one small Ray task per model and node.

Nothing here can fail a run: what goes wrong is told in the log, and whoever needs the model meets the same error.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wrpo_ray.claims import EXPECTED, Claim, engine_claim
from wrpo_ray.config import (
    FuseConfig,
    ModelConfig,
    ModelFiles,
    ResourcesConfig,
    TransformersRewardConfig,
    VllmRewardConfig,
)
from wrpo_ray.data.model_files import Fetched, make_ready
from wrpo_ray.errors import WrpoError
from wrpo_ray.redaction import last_line
from wrpo_ray.scheduling.nodes import Node, Room
from wrpo_ray.steps import Step

if TYPE_CHECKING:
    from ray import ObjectRef

log = logging.getLogger(__name__)
# Which of the nodes that can hold a replica will get one is not known before; a miss costs one download more.
_NODES_PER_REPLICA = 2
# See allocated_steps.
_FIRST_LOAD = "first-"


@dataclass(frozen=True)
class Coming:
    """A model that is needed soon, and what one of its replicas takes."""

    files: ModelFiles
    resources: ResourcesConfig


def models_of(config: FuseConfig, steps: Iterable[Step]) -> dict[str, Coming]:
    """Return by step which model it needs: a source's, or the reward model. Others are made by the run, or in training.

    What stands behind an endpoint, or follows from a rule, has no files.
    """
    sources = {source.name: source for source in config.sources if isinstance(source, ModelConfig)}
    reward = config.reward
    models = {}
    for step in steps:
        if step.source in sources and "sample-" in step.name:
            models[step.name] = Coming(sources[step.source], sources[step.source].resources)
        elif "score" in step.name and isinstance(reward, VllmRewardConfig | TransformersRewardConfig):
            models[step.name] = Coming(reward, reward.resources)
    return models


@dataclass(frozen=True)
class _Fetch:
    path: str
    node_id: str
    began_s: float


class Prefetcher:
    """Brings the files of coming models to the nodes that may run them; used in one thread.

    models: by the name of the step that needs it. num_ahead: models of one step each that are fetched before their
    turn, 0 for none; one that several steps need (the reward model) comes on top of them.
    """

    def __init__(self, models: Mapping[str, Coming], num_ahead: int) -> None:
        self.models, self.num_ahead = models, num_ahead
        self._asked: set[tuple[str, str]] = set()
        self._running: dict[ObjectRef[Fetched], _Fetch] = {}

    def ahead(self, steps: Sequence[str], nodes: Sequence[Node]) -> None:
        """Fetch the models of the steps that come next, soonest first; returns at once and may be called often."""
        self._tell_finished()
        coming = {self.models[step].files.path: self.models[step] for step in steps if step in self.models}
        # The two loads of a source (sampling.allocation) are one model's.
        uses = Counter(each.files.path for step, each in self.models.items() if not step.startswith(_FIRST_LOAD))
        own = [path for path in coming if uses[path] <= 1]
        for path, each in coming.items():
            if self.num_ahead and (uses[path] > 1 or path in own[: self.num_ahead]):
                for node in _fitting(each.resources, nodes):
                    self._start(each, node)

    def close(self) -> None:
        """End what is still being fetched; nobody takes for whole what a download that was cut short leaves behind."""
        if not self._running:
            return
        import ray

        for ref in self._running if ray.is_initialized() else ():
            ray.cancel(ref, force=True)
        self._running = {}

    def _start(self, coming: Coming, node: Node) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        key = (coming.files.path, node.node_id)
        if key in self._asked:
            return
        self._asked.add(key)
        # Not an engine's memory, nor its CPU; its environment says where the caches are.
        task = ray.remote(make_ready).options(
            name=f"fetch {coming.files.path}",
            num_cpus=0,
            max_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.node_id, soft=False),
            runtime_env={"env_vars": dict(coming.resources.env_vars)} if coming.resources.env_vars else None,
        )
        self._running[task.remote(coming.files)] = _Fetch(coming.files.path, node.node_id, time.monotonic())

    def _tell_finished(self) -> None:
        import ray

        if not self._running:
            return
        ready, _ = ray.wait(list(self._running), num_returns=len(self._running), timeout=0)
        for ref in ready:
            _tell(self._running.pop(ref), ref)


def _fitting(resources: ResourcesConfig, nodes: Sequence[Node]) -> list[Node]:
    """Return the nodes that could hold a replica, or a part of one that spans nodes; so many as may get one."""
    claim = engine_claim(resources)
    cpus, gpus = claim.num_cpus / claim.num_nodes, claim.num_gpus / claim.num_nodes
    part = Claim(cpus, gpus, claim.accelerator_type)
    there = [node for node in nodes if not node.node_id.startswith(EXPECTED)]
    fitting = [node for node in there if Room.of([node]).place(part) is not None]
    return fitting[: _NODES_PER_REPLICA * claim.most * claim.num_nodes]


def _tell(fetch: _Fetch, ref: Any) -> None:
    import ray
    from ray.exceptions import RayError

    where = f"{fetch.path} on node {fetch.node_id[:8]}"
    try:
        fetched: Any = ray.get(ref)
    except (RayError, WrpoError) as error:
        log.warning("%s could not be fetched before its turn: %s", where, last_line(str(error)))
        return
    if fetched.skipped is not None:
        log.info("%s is not fetched before its turn: %s", where, fetched.skipped)
    else:
        log.info("%s: %d bytes ready after %.1f s", where, fetched.bytes_fetched, time.monotonic() - fetch.began_s)
