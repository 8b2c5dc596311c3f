"""Who gets what is free: a list schedule, the longest way to the end first, with room kept for what needs much at once.

As in planning.schedule, after Graham, "Bounds on Multiprocessing Timing Anomalies", 1969: every step that may begin
does so with as few parts as it takes, those with the longest way to the end first; what is left then goes to whichever
running step would end last, if a further part works for longer than it takes to start. Nothing that runs is moved.

A step that does not fit yet keeps the nodes that will have room for it first: others may use them only until then
(backfilling; Lifka, "The ANL/IBM SP Scheduling System", 1995). Without this, small steps would take each GPU as it
becomes free, and an engine that needs a whole node would begin when all others are done.

Pure: the state goes in, decisions come out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from wrpo_ray.claims import NOTHING, Claim, Place
from wrpo_ray.planning.schedule import end_of_work_s
from wrpo_ray.scheduling.nodes import Node, Room, too_large

# Steps that wait for room and keep some; further ones are looked at again when these run.
_MOST_KEPT = 4


@dataclass(frozen=True)
class Task:
    """A step as the policy sees it.

    work_s: seconds that one part would take for all of it. start_s: what each part takes before it works. way_s: from
    its beginning with the fewest parts to the end of everything that waits for it.
    """

    name: str
    claim: Claim
    work_s: float = 0.0
    start_s: float = 0.0
    way_s: float = 0.0

    @property
    def longest_s(self) -> float:
        """Duration with the fewest parts."""
        return self.start_s + self.work_s / self.claim.fewest


@dataclass
class Running:
    """A step under way. left_s: seconds that one part would still take. started_s: when each part was given its place.

    useful: how many parts have something to do.
    """

    task: Task
    left_s: float
    places: list[Place]
    started_s: list[float]
    useful: int

    def end_s(self, now_s: float, further: int = 0) -> float:
        """Return when it ends, with `further` parts that are given now."""
        ready = [start + self.task.start_s for start in self.started_s] + [now_s + self.task.start_s] * further
        return end_of_work_s(self.left_s, 1.0, now_s, ready)


@dataclass(frozen=True)
class Decision:
    """Begin a step, or give a running one more parts."""

    task: Task
    places: tuple[Place, ...]
    begins: bool


@dataclass(frozen=True)
class _Kept:
    """Nodes that are kept for a step, and when it may begin there."""

    nodes: frozenset[str]
    until_s: float


@dataclass
class _Board:
    nodes: Sequence[Node]
    now_s: float
    running: list[Running]
    room: Room
    kept: list[_Kept] = field(default_factory=list)

    def begin(self, waiting: Sequence[Task]) -> Iterator[Decision]:
        for task in waiting:
            places = self._places(task)
            if places is not None:
                starts = [self.now_s] * len(places)
                self.running.append(Running(task, task.work_s, list(places), starts, task.claim.most))
                yield Decision(task, tuple(places), begins=True)
            elif len(self.kept) < _MOST_KEPT:
                self._keep(task)

    def _places(self, task: Task) -> list[Place] | None:
        """Return where the fewest parts of the task go now, if they can."""
        claim = task.claim
        if claim == NOTHING:
            return [()]
        places = self.room.place_all(claim, claim.fewest, self._barred(self.now_s + task.longest_s))
        if places is None and too_large(claim, self.nodes) and not any(map(_is_outside, self.running)):
            # Only a node that joins can hold it, and nodes may join because of what waits; one at a time.
            return [()] * claim.fewest
        return places

    def grow(self) -> Iterator[Decision]:
        while True:
            best: Running | None = None
            for each in sorted(self.running, key=lambda one: -one.end_s(self.now_s)):
                if self._gains(each):
                    best = each
                    break
            if best is None:
                return
            place = self.room.place(best.task.claim, self._barred(best.end_s(self.now_s, 1)))
            assert place is not None
            best.places.append(place)
            best.started_s.append(self.now_s)
            yield Decision(best.task, (place,), begins=False)

    def _gains(self, running: Running) -> bool:
        """A further part must work for longer than it takes to start."""
        if len(running.places) >= min(running.useful, running.task.claim.most):
            return False
        end_s = running.end_s(self.now_s, 1)
        if end_s >= running.end_s(self.now_s) or end_s - self.now_s <= 2 * running.task.start_s:
            return False
        return self.room.copy().place(running.task.claim, self._barred(end_s)) is not None

    def _barred(self, end_s: float) -> frozenset[str]:
        """Return the nodes that are kept for somebody who may begin before `end_s`."""
        return frozenset(node for kept in self.kept if kept.until_s < end_s for node in kept.nodes)

    def _keep(self, task: Task) -> None:
        """Find where the task would fit first as the running ones end, and keep those nodes for it."""
        taken = frozenset(node for kept in self.kept for node in kept.nodes)
        left = sorted(self.running, key=lambda each: each.end_s(self.now_s))
        while left:
            end_s = left.pop(0).end_s(self.now_s)
            places = _room(self.nodes, left).place_all(task.claim, task.claim.fewest, taken)
            if places is not None:
                self.kept.append(_Kept(frozenset(node for place in places for node in place), end_s))
                return


def _is_outside(running: Running) -> bool:
    return running.task.claim != NOTHING and () in running.places


def _room(nodes: Sequence[Node], running: Iterable[Running]) -> Room:
    return Room.of(nodes, ((each.task.claim, place) for each in running for place in each.places))


def decide(
    nodes: Iterable[Node],
    waiting: Sequence[Task],
    running: Iterable[Running],
    now_s: float,
    soon: Sequence[Task] = (),
) -> list[Decision]:
    """Return what begins and what grows now, in this order.

    waiting: steps whose inputs are complete. soon: steps whose inputs will be in a moment; what they need and is free,
    no other step grows into. Never gives more than is free.
    """
    nodes = list(nodes)
    running = [replace(each, places=list(each.places), started_s=list(each.started_s)) for each in running]
    board = _Board(nodes, now_s, running, _room(nodes, running))
    ordered = sorted(waiting, key=lambda task: -task.way_s)
    begun = list(board.begin(ordered))
    for task in sorted(soon, key=lambda task: -task.way_s):
        board.room.place_all(task.claim, task.claim.fewest)
    return [*begun, *board.grow()]
