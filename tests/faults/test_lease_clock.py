"""The lease by a clock that the test moves: P-11 (skewed clocks), self-fencing, and who counts as dead."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field

import pytest

from tests.faults.memory_store import FakeTime, MemoryStore
from wrpo_ray.errors import LeaseError, StorageError
from wrpo_ray.storage.lease import Clock, Lease, acquire, heartbeat_interval_s, held
from wrpo_ray.storage.lease_records import read_holder, record_place
from wrpo_ray.storage.location import Location
from wrpo_ray.storage.owner import surely_dead, this_process
from wrpo_ray.storage.stores import Stat

TIMEOUT_S = 60.0


@dataclass
class SkewedStore(MemoryStore):
    """A store whose clock is ahead of everybody else's by `skew_s`."""

    skew_s: float = 0.0

    def stat(self, key: str) -> Stat | None:
        found = super().stat(key)
        return None if found is None else Stat(found.num_bytes, found.modified + self.skew_s)

    def now(self, folder: str) -> float:
        return super().now(folder) + self.skew_s


def leases(store: MemoryStore) -> Location:
    return Location(store, "runs/r1/lease")


def get(store: MemoryStore, timeout_s: float = TIMEOUT_S) -> Lease:
    return acquire(leases(store), timeout_s, Clock(store.time.monotonic, store.time.sleep))


@dataclass
class BeatingTime(FakeTime):
    """Time in which an owner beats, while somebody else sleeps."""

    owner: Lease | None = None
    last_beat: float = 0.0

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        if self.owner is not None and self.seconds - self.last_beat >= heartbeat_interval_s(TIMEOUT_S):
            self.owner.beat()
            self.last_beat = self.seconds


@pytest.mark.parametrize("store_skew_s", [-3600.0, 0.0, 3600.0])
@pytest.mark.parametrize("wall_skew_s", [-3600.0, 0.0, 3600.0])
def test_no_skew_of_any_clock_makes_a_live_owner_dead_or_a_dead_one_live(
    store_skew_s: float, wall_skew_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    true_time = time.time
    monkeypatch.setattr(time, "time", lambda: true_time() + wall_skew_s)
    beating = BeatingTime()
    store = SkewedStore(time=beating, skew_s=store_skew_s)
    beating.owner = get(store)
    began = beating.seconds
    with pytest.raises(LeaseError, match=r"run `r1` is in use: .* last heartbeat [0-3] s ago \(epoch 1\)") as refused:
        get(store)
    assert (refused.value.code, refused.value.exit_code) == ("WRPO-L001", 5)
    assert beating.seconds - began < 10
    beating.owner = None
    silent_since = beating.last_beat
    assert get(store).epoch == 2
    assert TIMEOUT_S < beating.seconds - silent_since < TIMEOUT_S + 3


def test_a_released_run_is_free_at_once() -> None:
    store = MemoryStore()
    began = store.time.seconds
    for epoch in (1, 2, 3):
        lease = get(store)
        assert lease.epoch == epoch
        lease.release()
    assert store.time.seconds == began
    holder = read_holder(leases(store))
    assert holder is not None
    assert (holder.epoch, holder.state) == (3, "released")


def test_what_status_reads() -> None:
    store = MemoryStore()
    assert read_holder(leases(store)) is None
    lease = get(store)
    store.time.sleep(59)
    live = read_holder(leases(store))
    store.time.sleep(2)
    stale = read_holder(leases(store))
    assert live is not None
    assert stale is not None
    assert (live.state, live.heartbeat_age_s, stale.state, stale.heartbeat_age_s) == ("live", 59, "stale", 61)
    assert live.owner == lease.record.owner


def test_the_holders_own_timeout_counts_not_the_newcomers() -> None:
    store = MemoryStore()
    get(store, timeout_s=600.0)
    began = store.time.seconds
    assert get(store, timeout_s=1.0).epoch == 2
    assert store.time.seconds - began > 600


@dataclass
class OvertakingStore(MemoryStore):
    """A store in which somebody else takes epoch 2 right before the next one who tries, and lives."""

    beating: BeatingTime = field(default_factory=BeatingTime)
    overtaken: bool = False

    def create(self, key: str, content: bytes) -> bool:
        if key.endswith("000002.json") and not self.overtaken:
            self.overtaken = True
            self.beating.owner = get(self)
        return super().create(key, content)


def test_who_loses_the_race_for_an_epoch_judges_the_winner() -> None:
    beating = BeatingTime()
    store = OvertakingStore(time=beating, beating=beating)
    get(store)
    beating.sleep(100)
    with pytest.raises(LeaseError, match=r"\(epoch 2\)"):
        get(store)


def test_an_owner_that_was_taken_over_is_told_so_by_check_and_by_beat() -> None:
    store = MemoryStore()
    old = get(store)
    old.check()
    store.time.sleep(TIMEOUT_S + 1)
    get(store)
    for still_ours in (old.check, old.beat):
        with pytest.raises(LeaseError, match=r"taken over by the driver pid \d+ .* \(epoch 2\)") as lost:
            still_ours()
        assert lost.value.code == "WRPO-L002"


@dataclass
class BrokenWrites(MemoryStore):
    """A store that cannot be written to, as long as it is `broken`."""

    broken: bool = False

    def write(self, key: str, content: bytes) -> None:
        if self.broken:
            raise StorageError("503 SlowDown")
        super().write(key, content)


def test_an_owner_that_cannot_beat_fences_itself_and_goes_on_when_it_can_again() -> None:
    store = BrokenWrites()
    lease = get(store)
    store.broken = True
    store.time.sleep(TIMEOUT_S - 1)
    lease.check()
    store.time.sleep(2)
    with pytest.raises(LeaseError, match=r"no heartbeat could be written for 61 s.*503 SlowDown") as fenced:
        lease.check()
    assert fenced.value.code == "WRPO-L003"
    store.broken = False
    lease.check()


def test_the_heartbeat_survives_errors_and_tells_of_a_takeover_once(caplog: pytest.LogCaptureFixture) -> None:
    """In real time: heartbeats every 0.1 s, the first ones fail, then another epoch appears."""
    store, told = BrokenWrites(), []
    with held(leases(store), 0.4, on_lost=told.append) as lease:
        store.broken = True
        time.sleep(0.25)
        store.broken = False
        time.sleep(0.25)
        assert "runs/r1/lease/000001.beat" in store.objects
        assert "heartbeat of epoch 1 failed, trying again: 503 SlowDown" in caplog.text
        assert isinstance(lease, Lease)
        record_place(leases(store), 2).create_json({**dataclasses.asdict(lease.record), "epoch": 2})
        time.sleep(0.3)
    assert [error.code for error in told] == ["WRPO-L002"]


def test_switched_off_it_never_refuses_and_writes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryStore()
    with held(leases(store), 0.0) as one, held(leases(store), 0.0) as other:
        one.check()
        other.check()
    assert store.objects == {}
    assert "run.lease_timeout_s is 0" in caplog.text


def test_waiting_is_told_with_its_reason_and_its_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    store = MemoryStore()
    get(store)
    store.time.sleep(30)
    get(store)
    waiting = [line for line in caplog.messages if "waiting at most" in line]
    assert len(waiting) in (3, 4)
    assert "last heartbeat 30 s ago: waiting at most 30 s for its next one" in waiting[0]
    assert "gave no sign of life for 61 s: taking over" in caplog.text


def test_a_broken_record_is_named(caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryStore()
    get(store)
    store.objects["runs/r1/lease/000001.json"] = b'{"epoch": 1}'
    with pytest.raises(StorageError, match=r"lease/000001.json is not a lease of this version") as broken:
        get(store)
    assert broken.value.code == "WRPO-S040"


def test_the_name_for_ray_job_stop_comes_from_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    value = json.dumps({"runtime_env": {}, "metadata": {"job_submission_id": "raysubmit_ab12"}})
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", value)
    beating = BeatingTime()
    store = MemoryStore(time=beating)
    beating.owner = get(store)
    with pytest.raises(LeaseError) as refused:
        get(store)
    assert "`ray job stop raysubmit_ab12`" in str(refused.value.help)
    for text in ("", "{", "[]", '{"metadata": null}'):
        monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", text)
        assert this_process().submission_id == ""


def test_only_a_process_of_this_machine_that_is_gone_is_surely_dead() -> None:
    me = this_process()
    assert not surely_dead(me)
    assert surely_dead(dataclasses.replace(me, process_started="1")), "another process has the pid by now"
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended_owner = dataclasses.replace(me, pid=ended.pid)
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    zombie = surely_dead(dataclasses.replace(ended_owner, process_started=_started(ended.pid)))
    ended.wait()
    assert zombie
    assert surely_dead(ended_owner)
    for name in ("host", "boot_id", "pid_namespace"):
        for value in ("another", ""):
            assert not surely_dead(dataclasses.replace(ended_owner, **{name: value})), name


def _started(pid: int) -> str:
    with open(f"/proc/{pid}/stat", encoding="ascii") as stream:
        return stream.read().rpartition(")")[2].split()[19]
