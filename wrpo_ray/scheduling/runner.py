"""Works through steps side by side: one thread for each step under way, one scheduler in the main thread.

The main thread waits in short stretches for what its steps tell, so that signals reach it at once.
"""

from __future__ import annotations

import contextvars
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType

from wrpo_ray.claims import NOTHING, PARTS, Grant, granted
from wrpo_ray.planning.schedule import Job
from wrpo_ray.scheduling.estimates import left_s, tasks_of
from wrpo_ray.scheduling.nodes import Node
from wrpo_ray.scheduling.policy import Decision, Running, Task, decide
from wrpo_ray.steps import Step
from wrpo_ray.storage.manifest import Manifest

log = logging.getLogger(__name__)

# Nodes join and leave, and estimates change, without anybody telling.
_LOOK_EVERY_S = 1.0
# A pool is told to stop and its replicas are killed; what still works then is left behind.
_STOP_WAIT_S = 15.0
# Of the 2 s that interrupts.py leaves to the process.
_INTERRUPTED_WAIT_S = 0.5

Key = tuple[str, str]
"""Name and fingerprint of a step: while a source is left out, two steps of one name may be under way."""


class _Outcome:
    """Keeps what became of a step, whatever it raised; the scheduler raises it again in the main thread."""

    manifest: Manifest | None = None
    error: BaseException | None = None

    def __enter__(self) -> _Outcome:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self.error = error
        return True


@dataclass
class _Active:
    """A step under way. starts_s: when its parts were given; used_s: what they have worked together."""

    step: Step
    task: Task
    grant: Grant
    thread: threading.Thread
    counted_s: float
    starts_s: list[float] = field(default_factory=list)
    used_s: float = 0.0
    is_wanted: bool = True

    @property
    def is_about_to_end(self) -> bool:
        """Whether it takes no engine, or has no work or no replica left; these go before its last row is heard of."""
        return self.task.claim in (NOTHING, PARTS) or self.grant.shares[1] == 0 or not self.grant.places

    def seen(self, now_s: float) -> Running:
        """Return it as the policy sees it now."""
        places = self.grant.places
        for start_s in self.starts_s:
            self.used_s += max(0.0, now_s - max(self.counted_s, start_s + self.task.start_s))
        self.counted_s = now_s
        # Which of several parts ended, nobody asks once work has run out.
        self.starts_s = (self.starts_s + [now_s] * len(places))[: len(places)]
        at_start, left = self.grant.shares
        remaining_s = left_s(self.task, at_start, left, self.used_s)
        return Running(self.task, remaining_s, places, list(self.starts_s), self.grant.useful)


@dataclass
class StepRunner:
    """What is needed to work through steps.

    work_on: returns a step's manifest; called in a thread of the step. is_complete: tells whether nothing is left to
    do for a step. read_nodes: the cluster as it is now. planned: jobs of the plan. before_each: called before a step
    begins; what it raises ends the run. replaced: called with a step and its error, returns the steps to go on with, or
    raises what the run ends with. coming: told which steps come next, soonest first, and the nodes; returns at once.
    """

    work_on: Callable[[Step], Manifest]
    is_complete: Callable[[Step], bool]
    read_nodes: Callable[[], list[Node]]
    planned: Sequence[Job]
    before_each: Callable[[], None]
    replaced: Callable[[Step, Exception], Sequence[Step]]
    clock: Callable[[], float] = time.monotonic
    coming: Callable[[Sequence[str], Sequence[Node]], None] = lambda steps, nodes: None

    def run(self, steps: Sequence[Step]) -> dict[str, Manifest]:
        """Return the manifests of all steps, in their order; raises what the first step that failed raised."""
        run = _Run(self)
        run.choose(steps)
        try:
            return run.to_the_end()
        except Exception:
            run.stop(wait_s=_STOP_WAIT_S)
            raise
        except BaseException:
            # Interrupted: the process is about to end, and Ray with it; what Ray Data's threads say to that is noise.
            logging.getLogger("ray.data").setLevel(logging.CRITICAL)
            run.stop(wait_s=_INTERRUPTED_WAIT_S)
            raise


class _Run:
    def __init__(self, runner: StepRunner) -> None:
        self.runner = runner
        self.steps: list[Step] = []
        self.nodes: list[Node] = []
        self.looked_s = float("-inf")
        self.tasks: dict[str, Task] = {}
        self.active: dict[Key, _Active] = {}
        self.done: dict[Key, Manifest] = {}
        self.complete: dict[Key, bool] = {}
        self.news: queue.SimpleQueue[tuple[Key, _Outcome] | None] = queue.SimpleQueue()

    def choose(self, steps: Sequence[Step]) -> None:
        """Go on with these steps: what is under way and not among them is stopped."""
        self.steps = list(steps)
        self.tasks = tasks_of(self.steps, self.runner.planned)
        wanted = {_key(step) for step in self.steps}
        for key, active in self.active.items():
            if key not in wanted:
                active.is_wanted = False
                active.grant.stop()

    def to_the_end(self) -> dict[str, Manifest]:
        while True:
            waiting = [step for step in self.steps if _key(step) not in self.done and _key(step) not in self.active]
            if not waiting and not self.active:
                return {step.name: self.done[_key(step)] for step in self.steps}
            self._decide(waiting)
            self._listen()

    def _decide(self, waiting: Sequence[Step]) -> None:
        ready = {step.name: step for step in waiting if self._is_ready(step)}
        running = {key: active.seen(self.runner.clock()) for key, active in self.active.items()}
        holding = [each for each in running.values() if each.task.claim != NOTHING and each.places]
        tasks = [self._task(step) for step in ready.values()]
        now_s = self.runner.clock()
        # A run that has nothing left to do has no cluster either.
        nodes = self._nodes(now_s) if holding or any(task.claim != NOTHING for task in tasks) else []
        soon = [self._task(step) for step in waiting if step.name not in ready and self._is_soon(step)]
        for decision in decide(nodes, tasks, holding, now_s, [task for task in soon if task.claim != NOTHING]):
            if decision.begins:
                self._begin(ready[decision.task.name], decision)
            else:
                self._grow(decision)
        if nodes:
            self.runner.coming(self._next(waiting, tasks), nodes)

    def _next(self, waiting: Sequence[Step], ready: Sequence[Task]) -> list[str]:
        """Return the steps that come next: those that wait for one under way alone, then those that wait for room."""
        names = {each.name for each in self.steps}
        begun = {*self.active, *self.done}
        soon = [step for step in waiting if all(_key(each) in begun for each in step.inputs if each.name in names)]
        ways = {task.name: task.way_s for task in ready if task.claim != NOTHING}
        follow = [step.name for step in soon if step.name not in {task.name for task in ready}]
        room = [step.name for step in soon if step.name in ways and _key(step) not in begun]
        return [*follow, *sorted(room, key=lambda name: -ways[name])]

    def _nodes(self, now_s: float) -> list[Node]:
        if now_s >= self.looked_s + _LOOK_EVERY_S:
            self.nodes, self.looked_s = self.runner.read_nodes(), now_s
        return self.nodes

    def _is_ready(self, step: Step) -> bool:
        names = {each.name for each in self.steps}
        return all(_key(given) in self.done for given in step.inputs if given.name in names)

    def _is_soon(self, step: Step) -> bool:
        """Tell whether the step waits only for what works without engines, or has done its work and is about to end."""
        names = {each.name for each in self.steps}
        inputs = [_key(given) for given in step.inputs if given.name in names and _key(given) not in self.done]
        return all(key in self.active and self.active[key].is_about_to_end for key in inputs)

    def _task(self, step: Step) -> Task:
        """Return the step's task; what is complete takes nothing of the cluster."""
        key, task = _key(step), self.tasks[step.name]
        if key not in self.complete:
            self.complete[key] = self.runner.is_complete(step)
        return Task(task.name, NOTHING, way_s=task.way_s) if self.complete[key] else task

    def _begin(self, step: Step, decision: Decision) -> None:
        self.runner.before_each()
        log.info("[%d/%d] %s begins", self.steps.index(step) + 1, len(self.steps), step.name)
        grant = Grant(decision.task.claim, changed=lambda: self.news.put(None))
        grant.give(decision.places)
        context = contextvars.copy_context()
        thread = threading.Thread(
            target=context.run, args=(self._work, step, grant), name=f"step {step.name}", daemon=True
        )
        now_s = self.runner.clock()
        starts_s = [now_s] * len(decision.places)
        self.active[_key(step)] = _Active(step, decision.task, grant, thread, now_s, starts_s)
        thread.start()

    def _grow(self, decision: Decision) -> None:
        for active in self.active.values():
            if active.task is decision.task:
                active.grant.give(decision.places)

    def _work(self, step: Step, grant: Grant) -> None:
        with _Outcome() as outcome, granted(grant):
            outcome.manifest = self.runner.work_on(step)
        self.news.put((_key(step), outcome))

    def _listen(self) -> None:
        """Wait for news, at most for a moment, and take all there is."""
        try:
            news = self.news.get(timeout=_LOOK_EVERY_S)
            while True:
                if news is not None:
                    self._ended(*news)
                news = self.news.get_nowait()
        except queue.Empty:
            return

    def _ended(self, key: Key, outcome: _Outcome) -> None:
        active = self.active.pop(key)
        if not active.is_wanted:
            return
        if outcome.manifest is not None:
            self.done[key] = outcome.manifest
            return
        assert outcome.error is not None
        if not isinstance(outcome.error, Exception):
            raise outcome.error
        self.choose(self.runner.replaced(active.step, outcome.error))

    def stop(self, wait_s: float) -> None:
        """Tell all steps under way to stop, and wait for them for so long at most."""
        until = time.monotonic() + wait_s
        for active in self.active.values():
            active.grant.stop()
        for active in self.active.values():
            active.thread.join(max(0.0, until - time.monotonic()))


def _key(step: Step) -> Key:
    return step.name, step.fingerprint
