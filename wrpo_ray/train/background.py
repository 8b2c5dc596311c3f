"""Checkpoints that are stored while the next steps run.

Training stops for a copy to the node's memory. A thread of every rank then writes and uploads its share; once all have
done so, one of rank 0 writes the marker. What ranks tell one another they say between two steps, on the main thread:
collectives of two threads could meet in another order on another rank.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from wrpo_ray.storage.manifest import FileEntry
from wrpo_ray.train import resume
from wrpo_ray.train.job import TrainJob
from wrpo_ray.train.ranks import Ranks

_Entries = list[FileEntry]


@dataclass(frozen=True)
class _Flight:
    """The checkpoint in flight: its step, what this rank does for it now, and whether that is its last part."""

    step: int
    work: Future[_Entries]
    is_committing: bool = False


class CheckpointWriter:
    """Stores checkpoints, at most one at a time; all ranks make the same calls after the same steps.

    An error of one rank's thread is raised on all ranks by the next call.
    """

    def __init__(self, job: TrainJob, ranks: Ranks, attempt: resume.Attempt, layout: Mapping[str, Any]) -> None:
        """layout: what decides how a checkpoint can be loaded, as `resume.trainer_state` keeps it."""
        self._job, self._ranks, self._attempt, self._layout = job, ranks, attempt, layout
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._flight: _Flight | None = None

    def save(self, engine: Any, step: int, history: str, *, in_background: bool) -> None:
        """Store the state after `step` optimizer steps, once the checkpoint before it is stored.

        history: the metrics file so far. Returns when a copy has been made, or, not `in_background`, when it is whole.
        """
        self.finish()
        snapshot = resume.take(self._ranks, self._attempt, engine, history, in_memory=in_background)
        self._flight = _Flight(step, self._begin(lambda: resume.store(self._job, self._attempt, step, snapshot)))
        if not in_background:
            self.finish()

    def poll(self) -> None:
        """Go on with the checkpoint in flight, if there is one and its turn has come."""
        if self._flight is not None:
            self._advance(self._flight)

    def finish(self) -> None:
        """Return when no checkpoint is in flight."""
        while self._flight is not None:
            wait([self._flight.work])
            self._advance(self._flight)

    def abandon(self) -> None:
        """Begin nothing more: this rank's training has failed. Only a commit that has begun already may still end."""
        self._flight = None
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _begin(self, work: Callable[[], _Entries]) -> Future[_Entries]:
        return self._thread.submit(work)

    def _advance(self, flight: _Flight) -> None:
        parts = self._ranks.gathered(_outcome(flight.work))
        for part in parts:
            if isinstance(part, BaseException):
                self.abandon()
                raise part
        if any(part is None for part in parts):
            return
        if flight.is_committing:
            self._flight = None
            return
        entries = [entry for part in parts if isinstance(part, list) for entry in part]
        self._flight = _Flight(flight.step, self._begin(lambda: self._commit(flight.step, entries)), is_committing=True)

    def _commit(self, step: int, entries: _Entries) -> _Entries:
        if self._ranks.rank == 0:
            resume.commit(self._job, self._attempt, step, entries, self._layout)
        return []


def _outcome(work: Future[_Entries]) -> _Entries | BaseException | None:
    """Return what the work came to: entries, the error that ended it, or None while it goes on."""
    if not work.done():
        return None
    return work.exception() or work.result()
