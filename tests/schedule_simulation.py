"""A cluster in which steps take exactly as long as they say: what the policy decides, played to the end."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence, Set

from wrpo_ray.scheduling.nodes import Node, Room
from wrpo_ray.scheduling.policy import Decision, Running, Task, decide


@dataclasses.dataclass
class Played:
    """When all was done, what was decided when, and what was free after each decision."""

    makespan_s: float
    decisions: list[tuple[float, Decision]]

    def begun_s(self, name: str) -> float:
        return next(at for at, one in self.decisions if one.begins and one.task.name == name)

    def parts(self, name: str) -> int:
        return sum(len(one.places) for _, one in self.decisions if one.task.name == name)


def held(running: Mapping[str, Running]) -> list:
    return [(each.task.claim, place) for each in running.values() for place in each.places]


def play(tasks: Sequence[Task], after: Mapping[str, Set[str]], nodes: Sequence[Node]) -> Played:
    """Play the policy; asserts on the way that no more is given than there is, and that something always goes on."""
    now_s, done, decisions = 0.0, set[str](), []
    running: dict[str, Running] = {}
    waiting = {task.name: task for task in tasks}
    while waiting or running:
        ready = [task for name, task in waiting.items() if after.get(name, set()) <= done]
        for one in decide(nodes, ready, [_copy(each) for each in running.values()], now_s):
            decisions.append((now_s, one))
            if one.begins:
                del waiting[one.task.name]
                starts = [now_s] * len(one.places)
                running[one.task.name] = Running(
                    one.task, one.task.work_s, list(one.places), starts, one.task.claim.most
                )
            else:
                running[one.task.name].places += one.places
                running[one.task.name].started_s += [now_s] * len(one.places)
        assert running, f"nothing runs, and {sorted(waiting)} wait"
        require_room(nodes, running)
        now_s = _advance(running, done, now_s)
    return Played(now_s, decisions)


def require_room(nodes: Sequence[Node], running: Mapping[str, Running]) -> None:
    """No node gives more than it has; whole GPUs are counted whole, fractions by the GPU."""
    for free in Room.of(nodes, held(running)).free.values():
        gpus = sum(claim.num_gpus / claim.num_nodes * place.count(free.node.node_id) for claim, place in held(running))
        assert gpus <= free.node.num_gpus + 1e-6
        assert free.cpus >= -1e-6
        assert min(free.gpus, default=0) >= -1e-6


def _copy(running: Running) -> Running:
    return dataclasses.replace(running, places=list(running.places), started_s=list(running.started_s))


def _advance(running: dict[str, Running], done: set[str], now_s: float) -> float:
    ends = {name: each.end_s(now_s) for name, each in running.items()}
    next_s = min(ends.values())
    for name, each in list(running.items()):
        worked = sum(max(0.0, next_s - max(now_s, start + each.task.start_s)) for start in each.started_s)
        each.left_s = max(0.0, each.left_s - worked)
        if ends[name] <= next_s + 1e-9:
            done.add(name)
            del running[name]
    return next_s
