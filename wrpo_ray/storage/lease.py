"""One live driver per run. A second one stops within seconds and names the first; a dead one is taken over.

The lease saves cost; it is not what keeps a run whole. Two drivers at once, whatever the reason, never double a row:
commits and manifests are created once (see ledger.py). No decision is taken by this machine's wall clock: ages come
from the store's clock, waiting from the monotonic one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from wrpo_ray.errors import LeaseError, StorageError
from wrpo_ray.storage.lease_records import (
    Record,
    create_record,
    heartbeat_age_s,
    heartbeat_place,
    highest_epoch,
    read_record,
    record_place,
    released_place,
)
from wrpo_ray.storage.location import Location
from wrpo_ray.storage.owner import Owner, surely_dead, this_process

log = logging.getLogger(__name__)

# A live owner is recognised after one heartbeat: this, one poll and some calls stay well below 10 seconds.
_MAX_HEARTBEAT_INTERVAL_S = 3.0
_HEARTBEATS_PER_TIMEOUT = 4
_LOG_EVERY_S = 10.0
_STOP_WAIT_S = 1.0
_RACE_WAIT_S = 0.1


@dataclass(frozen=True)
class Clock:
    """How time passes; tests pass another one."""

    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


def heartbeat_interval_s(timeout_s: float) -> float:
    """Return how often the owner writes its heartbeat."""
    return min(_MAX_HEARTBEAT_INTERVAL_S, timeout_s / _HEARTBEATS_PER_TIMEOUT)


@contextmanager
def held(
    leases: Location, timeout_s: float, on_lost: Callable[[LeaseError], None] | None = None, clock: Clock | None = None
) -> Iterator[Lease | NoLease]:
    """Hold the run while the body runs; with `timeout_s` 0 without a lease, which never refuses.

    on_lost: called once, in the heartbeat's thread, when another driver has taken the run over.
    Raises LeaseError (WRPO-L001) when another live driver holds it.
    """
    if timeout_s == 0:
        log.warning("run.lease_timeout_s is 0: nothing keeps a second driver of this run from doing its work twice")
        yield NoLease()
        return
    lease = acquire(leases, timeout_s, clock or Clock())
    lease.on_lost = on_lost
    lease.start()
    try:
        yield lease
    finally:
        lease.release()


class NoLease:
    """Stands in for a lease that is switched off."""

    epoch = 0

    def check(self) -> None:
        """Never refuse."""


@dataclass
class Lease:
    """A run held by this process. `beat` keeps it, `check` tells whether it is still ours."""

    leases: Location
    record: Record
    clock: Clock
    last_beat: float
    on_lost: Callable[[LeaseError], None] | None = None
    _num_beats: int = 0
    _lost: LeaseError | None = None
    _writing: threading.Lock = field(default_factory=threading.Lock)
    _stopped: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    @property
    def epoch(self) -> int:
        return self.record.epoch

    def start(self) -> None:
        """Beat from now on, in a thread of its own, which ends with the process."""
        self._thread = threading.Thread(target=self._keep, name="wrpo-lease", daemon=True)
        self._thread.start()

    def beat(self) -> None:
        """Write one heartbeat.

        Raises LeaseError (WRPO-L002) when another driver holds the run, StorageError when it cannot be written.
        """
        with self._writing:
            # What counts is when the store gets it, which is not before this.
            started = self.clock.monotonic()
            self._require_highest()
            self._num_beats += 1
            heartbeat_place(self.leases, self.epoch).write_json({"id": self.record.owner.id, "beat": self._num_beats})
            self.last_beat = started

    def check(self) -> None:
        """Raise LeaseError when this driver has lost the run, or cannot know whether it has."""
        self._require_highest()
        silent_s = self.clock.monotonic() - self.last_beat
        if silent_s <= self.record.timeout_s:
            return
        try:
            self.beat()
        except StorageError as error:
            raise LeaseError(
                f"{_run_name(self.leases)}: no heartbeat could be written for {silent_s:.0f} s, so that another driver"
                f" may hold the run (epoch {self.epoch}): {error}",
                code="WRPO-L003",
                help="when the store works again, run the same command: it goes on where it stopped",
            ) from error

    def release(self) -> None:
        """Let the next driver start at once; best effort, since a killed driver cannot do it either."""
        self._stopped.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=_STOP_WAIT_S)
        try:
            released_place(self.leases, self.epoch).write_json({"id": self.record.owner.id})
        except StorageError as error:
            log.warning("the lease could not be released, the next driver waits for its end: %s", error)

    def _require_highest(self) -> None:
        if self._lost is None and record_place(self.leases, self.epoch + 1).exists():
            self._lost = _lost(self.leases, self.epoch)
        if self._lost is not None:
            raise self._lost

    def _keep(self) -> None:
        while not self._stopped.wait(heartbeat_interval_s(self.record.timeout_s)):
            try:
                self.beat()
            except StorageError as error:
                log.warning("heartbeat of epoch %d failed, trying again: %s", self.epoch, error)
            except LeaseError as error:
                log.error("%s", error)
                if self.on_lost is not None:
                    self.on_lost(error)
                return


def acquire(leases: Location, timeout_s: float, clock: Clock) -> Lease:
    """Return the run's lease once nobody holds it; its heartbeat is not started.

    Raises LeaseError (WRPO-L001) as soon as the holder is seen to be alive; waits until a silent one counts as dead.
    """
    owner = this_process()
    while True:
        epoch = highest_epoch(leases)
        if epoch:
            _wait_for_end(leases, read_record(leases, epoch), clock)
        record = Record(epoch + 1, owner, timeout_s)
        started = clock.monotonic()
        if create_record(leases, record):
            log.info("this driver holds %s (epoch %d)", _run_name(leases), record.epoch)
            return Lease(leases, record, clock, last_beat=started)
        # Somebody was faster; a listing may take a moment to show it.
        clock.sleep(_RACE_WAIT_S)


def _wait_for_end(leases: Location, held_by: Record, clock: Clock) -> None:
    """Return when the driver of this epoch is over: released, dead, silent for too long, or followed by another one."""
    first = _heartbeat(leases, held_by.epoch)
    age_s, since = heartbeat_age_s(leases, held_by.epoch), clock.monotonic()
    last_said = since - _LOG_EVERY_S
    while True:
        silent_s = age_s + clock.monotonic() - since
        if record_place(leases, held_by.epoch + 1).exists() or released_place(leases, held_by.epoch).exists():
            return
        if _heartbeat(leases, held_by.epoch) != first:
            raise _in_use(leases, held_by)
        if surely_dead(held_by.owner):
            log.warning("the %s (epoch %d) is dead: taking over", held_by.owner, held_by.epoch)
            return
        if silent_s > held_by.timeout_s:
            log.warning(
                "the %s (epoch %d) gave no sign of life for %.0f s: taking over",
                held_by.owner, held_by.epoch, silent_s,
            )  # fmt: skip
            return
        if clock.monotonic() - last_said >= _LOG_EVERY_S:
            last_said = clock.monotonic()
            _say_waiting(leases, held_by, silent_s)
        clock.sleep(min(1.0, heartbeat_interval_s(held_by.timeout_s) / 2))


def _heartbeat(leases: Location, epoch: int) -> bytes | None:
    try:
        return heartbeat_place(leases, epoch).read_bytes()
    except FileNotFoundError:
        return None


def _say_waiting(leases: Location, held_by: Record, silent_s: float) -> None:
    log.warning(
        "%s is held by the %s (epoch %d), last heartbeat %.0f s ago: waiting at most %.0f s for its next one",
        _run_name(leases), held_by.owner, held_by.epoch, silent_s, max(0.0, held_by.timeout_s - silent_s),
    )  # fmt: skip


def _in_use(leases: Location, held_by: Record) -> LeaseError:
    age_s = heartbeat_age_s(leases, held_by.epoch)
    return LeaseError(
        f"{_run_name(leases)} is in use: held by {held_by.owner}, last heartbeat {age_s:.0f} s ago"
        f" (epoch {held_by.epoch})",
        code="WRPO-L001",
        help=f"wait, or stop it with {_stop_command(held_by.owner)}, or use another run.name;"
        f" a dead owner is taken over after {held_by.timeout_s:g} s",
    )


def _stop_command(owner: Owner) -> str:
    return f"`ray job stop {owner.submission_id}`" if owner.submission_id else f"`kill {owner.pid}` on {owner.host}"


def _lost(leases: Location, epoch: int) -> LeaseError:
    now = read_record(leases, highest_epoch(leases))
    return LeaseError(
        f"{_run_name(leases)} was taken over by the {now.owner} (epoch {now.epoch}) because this driver"
        f" (epoch {epoch}) gave no sign of life for too long; it stops, what it committed stays",
        code="WRPO-L002",
        help="let the other driver go on; raise run.lease_timeout_s if pauses of this length are normal here",
    )


def _run_name(leases: Location) -> str:
    return f"run `{leases.key.split('/')[-2]}`" if "/" in leases.key else f"the run of {leases}"
