"""How many replicas the pool of a step has, and on which nodes: what its grant says, obeyed inside of Ray Data.

Ray Data's own autoscaler of a pool looks at one pipeline alone, at limits that it reads once a second, and at a share
of the cluster that a coordinator gives each pipeline. Here one scheduler knows all pipelines, so the autoscaler of an
executor is replaced by one that starts what was granted and ends what has nothing left to do
(ray/data/_internal/actor_autoscaler/base_actor_autoscaler.py, 2.60).
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from ray.data._internal.actor_autoscaler import ActorPoolScalingRequest
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from wrpo_ray.claims import EXPECTED, Grant, Place
from wrpo_ray.events import ReplicasChanged, emit

if TYPE_CHECKING:
    from ray.data._internal.actor_autoscaler import AutoscalingActorPool
    from ray.data._internal.execution.streaming_executor import StreamingExecutor


class Places:
    """Starts and ends the replicas of one pipeline; made in the step's thread, used in the one of Ray Data's executor.

    num_shards: to do. shards_in_flight: of one replica. num_gpus: of one replica. keep: told which actors there are.
    """

    def __init__(
        self,
        grant: Grant,
        num_shards: int,
        shards_in_flight: int,
        num_gpus: float,
        keep: Callable[[Iterable[Any]], None] = lambda _: None,
    ) -> None:
        self.grant, self.num_shards, self.keep = grant, num_shards, keep
        self.shards_in_flight, self.num_gpus = shards_in_flight, num_gpus
        self.num_running = 0
        self._starting: list[Place] = []
        self._places: dict[Any, Place] = {}
        # The executor's thread knows nothing of who listens to the step.
        self._context = contextvars.copy_context()
        grant.limit(num_shards)

    def remote_arguments(self) -> dict[str, Any]:
        """Return where the next replica belongs; Ray Data asks once for each that it starts."""
        place = self.grant.start()
        self._starting.append(place)
        if len(place) != 1 or place[0].startswith(EXPECTED):
            return {}
        # Soft, and elsewhere at once when the node is gone or full: others may use the cluster too.
        return {"scheduling_strategy": NodeAffinitySchedulingStrategy(place[0], soft=True, _spill_on_unavailable=True)}

    def adjust(self, pool: AutoscalingActorPool, num_finished: int, is_dispatched: bool) -> None:
        """Start what was granted, end one that has nothing left to do, and tell what there is."""
        if is_dispatched:
            pool.scale(ActorPoolScalingRequest.downscale(delta=-1, force=True, reason="no shards left"))
            self.grant.limit(pool.current_size())
        else:
            self.grant.limit(self._num_useful(pool.current_size(), num_finished))
            if number := self.grant.num_to_start():
                pool.scale(ActorPoolScalingRequest.upscale(delta=number, reason="granted"))
        self._tell(pool)

    def _num_useful(self, size: int, num_finished: int) -> int:
        """Return how many replicas have shards to work on, those included that wait for their node."""
        waiting = self.num_shards - num_finished - size * self.shards_in_flight
        return size + max(0, -(-waiting // self.shards_in_flight))

    def _tell(self, pool: AutoscalingActorPool) -> None:
        held = self._held(pool)
        self.keep(pool._running_actors)  # pyright: ignore[reportAttributeAccessIssue]
        self._places = held
        self.grant.holds(list(held.values()))
        if pool.num_running_actors() != self.num_running:
            self.num_running = pool.num_running_actors()
            self._emit()

    def _held(self, pool: Any) -> dict[Any, Place]:
        """Return the places of all replicas; only Ray Data knows where one is that was started again."""
        held: dict[Any, Place] = {}
        for actor in pool._pending_actors.values():
            held[actor] = self._place_of(actor)
        for actor in pool._running_actors:
            place = self._place_of(actor)
            held[actor] = place if len(place) > 1 else (pool.get_actor_location(actor),)
        return held

    def _place_of(self, actor: Any) -> Place:
        """Return where a replica was sent; Ray Data lists new ones in the order in which they were started."""
        if actor in self._places:
            return self._places[actor]
        return self._starting.pop(0) if self._starting else ()

    def ended(self) -> None:
        """Forget the replicas: they end when nothing refers to them any more."""
        self._places = {}
        if self.num_running:
            self.num_running = 0
            self._emit()

    def _emit(self) -> None:
        self._context.run(emit, ReplicasChanged(self.num_running, self.num_running * self.num_gpus))


class _Autoscaler:
    """Takes the place of Ray Data's: see ActorAutoscaler."""

    def __init__(self, executor: StreamingExecutor, places: Places) -> None:
        self.executor, self.places = executor, places

    def try_trigger_scaling(self) -> None:
        """Called by the executor each time it has looked at its tasks, about ten times a second."""
        if self.places.grant.is_stopped and self.executor._output_node is not None:
            # To whoever reads the rows they are over; what is raised here, Ray Data would take for a fault of its own.
            self.executor._output_node[1].mark_finished()
            return
        for operator, state in (self.executor._topology or {}).items():
            for pool in operator.get_autoscaling_actor_pools():
                is_dispatched = operator._inputs_complete and state.total_enqueued_input_blocks() == 0
                self.places.adjust(pool, operator.metrics.num_tasks_finished, is_dispatched or operator.has_completed())


_deciding: ContextVar[Places | None] = ContextVar("places", default=None)


class PlacesCallback(ExecutionCallback):
    """Hands the executor to whoever decides about its replicas. Ray Data makes one, in the step's thread."""

    def __init__(self) -> None:
        self.places = _deciding.get()

    def before_execution_starts(self, executor: StreamingExecutor) -> None:
        """See ExecutionCallback."""
        if self.places is not None:
            executor._actor_autoscaler = _Autoscaler(executor, self.places)  # pyright: ignore[reportAttributeAccessIssue]


@contextmanager
def deciding(places: Places) -> Iterator[None]:
    """Let `places` decide about the pipelines that begin in the body."""
    token = _deciding.set(places)
    try:
        yield
    finally:
        _deciding.reset(token)
        places.ended()
