"""The actors of one pool: their end is asked for and seen, and not left to the collectors of Python and Ray.

Ray Data ends an actor by dropping its handles. Whatever still refers to one in the driver (the frames of an error that
is on its way up, a thread that has not ended) keeps the actor and its GPU until the next collection of cycles. And when
an actor ends that way, Ray kills its child processes before the instance is told: a vLLM engine of several processes
would leave its shared memory behind.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from wrpo_ray.config import ResourcesConfig
from wrpo_ray.data.shard_actor import close_engines
from wrpo_ray.data.spanning import create_group, remove_group

if TYPE_CHECKING:
    from ray.actor import ActorHandle
    from ray.util.placement_group import PlacementGroup

log = logging.getLogger(__name__)
# An engine that does not shut down by itself within 15 s is ended by engines.process; and a little more.
_CLOSE_S = 25.0
_DEATH_S = 30.0
_POLL_S = 0.05


class Replicas:
    """Starts the actors of one pool under names, and ends them. Ray Data calls `options` from a thread of its own."""

    def __init__(self, title: str, resources: ResourcesConfig) -> None:
        self.title, self.resources, self.pool = title, resources, uuid.uuid4().hex[:8]
        self.names: list[str] = []
        self._groups: list[PlacementGroup] = []
        # Ray ends an actor that nothing refers to; these are for us to end.
        self._kept: set[ActorHandle[Any]] = set()
        self._closed = False
        self._lock = threading.Lock()

    def options(self) -> dict[str, Any]:
        """Return Ray's options for the next actor; raises RuntimeError when the pool has ended.

        One whose engine spans nodes gets a placement group of its own, lies in it, and holds no GPU itself.
        """
        with self._lock:
            if self._closed:
                raise RuntimeError(f"{self.title}: the pool of replicas has ended")
            self.names.append(name := f"{self.title} {self.pool}-{len(self.names)}")
            if self.resources.num_nodes == 1:
                return {"name": name}
            group, options = create_group(name, self.resources)
            self._groups.append(group)
            return {"name": name, **options}

    def keep(self, actors: Iterable[ActorHandle[Any]]) -> None:
        """Note the actors that Ray Data has now; those that it had before and let go shut their engines down and leave.

        Only of actors that are noted the engine can shut down by itself; the others are killed.
        """
        with self._lock:
            if not self._closed:
                self._let_go(set(actors))

    def end(self, gracefully: bool) -> None:
        """Return when no actor of the pool is alive, none can be started any more, and its groups are removed.

        gracefully: their engines are idle and may shut down by themselves first, which takes at most 25 s.
        """
        import ray

        with self._lock:
            self._closed = True
        if gracefully:
            self._let_go(set())
            self._wait_for(self._living_names, _CLOSE_S)
        for actor in self._living().values():
            _kill(actor)
        for group in self._groups if ray.is_initialized() else ():
            remove_group(group)
        left = [*self._wait_for(self._living_names, _DEATH_S), *self._wait_for(self._groups_left, _DEATH_S)]
        if left:
            log.error("%s: still there %g s after their end: %s", self.title, _DEATH_S, ", ".join(left))

    def _let_go(self, now: set[ActorHandle[Any]]) -> None:
        for actor in self._kept - now:
            threading.Thread(target=_closed_and_killed, args=(actor,), name="replica leaves", daemon=True).start()
        self._kept = now

    def _wait_for(self, remaining: Callable[[], Sequence[str]], timeout_s: float) -> Sequence[str]:
        """Wait until nothing remains, and return what does when the time is over."""
        deadline = time.monotonic() + timeout_s
        while (names := remaining()) and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        return names

    def _living(self) -> dict[str, ActorHandle[Any]]:
        """Return the actors that Ray has not declared dead, with handles that do not keep them."""
        import ray

        if not ray.is_initialized():
            # The driver has left the cluster, and all that was its own with it; a question would start a cluster.
            return {}
        living = {}
        for name in self.names:
            try:
                living[name] = ray.get_actor(name)
            except ValueError:
                continue
        if self._closed:
            # Who is dead is not asked for again.
            self.names = list(living)
        return living

    def _living_names(self) -> list[str]:
        return list(self._living())

    def _groups_left(self) -> list[str]:
        import ray
        from ray.util import placement_group_table

        if not ray.is_initialized():
            return []
        tables = [placement_group_table(group) for group in self._groups]
        return [table["name"] for table in tables if table.get("state", "REMOVED") != "REMOVED"]


def _closed_and_killed(actor: ActorHandle[Any]) -> None:
    """Let a replica shut its engine down, and end it.

    Not by `exit_actor`: Ray would tell the driver that the call which ends its own actor has failed.
    """
    import ray

    ray.wait([actor.__ray_call__.remote(close_engines)], timeout=_CLOSE_S)
    _kill(actor)


def _kill(actor: ActorHandle[Any]) -> None:
    import ray

    # After the driver has left, the call would start a cluster of its own.
    if ray.is_initialized():
        ray.kill(actor, no_restart=True)
