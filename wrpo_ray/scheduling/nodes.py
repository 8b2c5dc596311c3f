"""The cluster as the scheduler sees it: nodes with CPUs and GPUs, and where a further part fits. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from wrpo_ray.claims import Claim, Place

# Fractions do not add up exactly.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Node:
    """A node: its id, CPUs, GPUs, the type of the latter, None when it is not known, and that type's other names."""

    node_id: str
    num_cpus: float
    num_gpus: int = 0
    accelerator_type: str | None = None
    other_types: tuple[str, ...] = ()

    @property
    def types(self) -> tuple[str, ...]:
        """All names of its accelerator type."""
        return (*((self.accelerator_type,) if self.accelerator_type else ()), *self.other_types)


@dataclass
class _Free:
    """What is left of a node; GPUs one by one, since a fraction lies on one of them."""

    node: Node
    cpus: float
    gpus: list[float]

    def fits(self, cpus: float, gpus: float, accelerator_type: str | None) -> bool:
        if cpus > self.cpus + ROUNDING or (accelerator_type is not None and accelerator_type not in self.node.types):
            return False
        return self._gpus_for(gpus) is not None

    def take(self, cpus: float, gpus: float) -> None:
        """Take it, whether it fits or not: what is held is held."""
        self.cpus -= cpus
        for number, share in self._gpus_for(gpus) or ():
            self.gpus[number] -= share

    def _gpus_for(self, gpus: float) -> list[tuple[int, float]] | None:
        """Return the shares of GPUs by number, None when they are not there."""
        if gpus <= 0:
            return []
        if gpus < 1:
            room = [(free, number) for number, free in enumerate(self.gpus) if free + ROUNDING >= gpus]
            return [(min(room)[1], gpus)] if room else None
        whole = [number for number, free in enumerate(self.gpus) if free >= 1 - ROUNDING]
        return [(number, 1.0) for number in whole[: round(gpus)]] if len(whole) >= round(gpus) else None


@dataclass
class Room:
    """What is free now; `place` takes from it."""

    free: dict[str, _Free] = field(default_factory=dict)

    @classmethod
    def of(cls, nodes: Iterable[Node], held: Iterable[tuple[Claim, Place]] = ()) -> Room:
        """Return what is left of the nodes besides what is held."""
        room = cls({node.node_id: _Free(node, node.num_cpus, [1.0] * node.num_gpus) for node in nodes})
        # Whole GPUs first: fractions then go to what is left, as they did when they were placed.
        for claim, place in sorted(held, key=lambda one: -one[0].num_gpus):
            room.take(claim, place)
        return room

    def copy(self) -> Room:
        """Return a room of its own with the same contents."""
        return Room({name: _Free(free.node, free.cpus, list(free.gpus)) for name, free in self.free.items()})

    def take(self, claim: Claim, place: Place) -> None:
        """Take one part; nodes that are gone have nothing to take from."""
        for node_id in place:
            if node_id in self.free:
                self.free[node_id].take(claim.num_cpus / claim.num_nodes, claim.num_gpus / claim.num_nodes)

    def place(self, claim: Claim, without: frozenset[str] = frozenset()) -> Place | None:
        """Take room for one part where it fits most tightly, and return where; None when it fits nowhere.

        without: ids of nodes that are left alone.
        """
        cpus, gpus = claim.num_cpus / claim.num_nodes, claim.num_gpus / claim.num_nodes
        fitting = [
            free
            for name, free in self.free.items()
            if name not in without and free.fits(cpus, gpus, claim.accelerator_type)
        ]
        if len(fitting) < claim.num_nodes:
            return None
        # The tightest node keeps large holes whole for those that need them, and GPU nodes free of mere CPU work.
        fitting.sort(key=lambda free: (sum(free.gpus), free.cpus, free.node.node_id))
        place = tuple(free.node.node_id for free in fitting[: claim.num_nodes])
        self.take(claim, place)
        return place

    def place_all(self, claim: Claim, count: int, without: frozenset[str] = frozenset()) -> list[Place] | None:
        """Take room for `count` parts, or for none of them."""
        tried = self.copy()
        places: list[Place] = []
        for _ in range(count):
            place = tried.place(claim, without)
            if place is None:
                return None
            places.append(place)
        self.free = tried.free
        return places


def too_large(claim: Claim, nodes: Sequence[Node]) -> bool:
    """Tell whether even the empty cluster has no room for the fewest parts."""
    return Room.of(nodes).place_all(claim, claim.fewest) is None
