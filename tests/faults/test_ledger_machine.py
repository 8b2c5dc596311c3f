"""Any order of any events over ledger, lease and steps, against a model of a few sets (Hypothesis state machine).

Three drivers, of which any may be dead, asleep or late. They work on two stages; engines seldom repeat themselves.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import ClassVar

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from tests.faults.fault_store import CrashError, FaultStore, Mode
from tests.faults.memory_store import FakeTime, MemoryStore
from wrpo_ray.errors import LeaseError, StorageError
from wrpo_ray.steps import Step, StepResult, execute
from wrpo_ray.storage import ledger
from wrpo_ray.storage.lease import Clock, Lease, acquire
from wrpo_ray.storage.ledger import QuarantinedRow, Shard
from wrpo_ray.storage.location import Location
from wrpo_ray.storage.manifest import Manifest, RunLayout, read_manifest
from wrpo_ray.storage.tables import parquet_bytes, read_table, read_verified

TIMEOUT_S = 10.0
STAGES, SLOTS = ("sample", "score"), (0, 1, 2)
ITEMS = ("i0", "i1", "i2", "i3", "i4")
POISON = "i3"
SCHEMA = pa.schema([("item", pa.string()), ("writer", pa.int64())])
EVENTS = {
    "epoch taken", "epoch taken over", "refused with WRPO-L001", "crash", "attempt corrupted",
    "commit", "commit of another one kept", "commit of another one with the same file kept",
    "finished", "was finished", "finish failed with WRPO-S020", "finish refused",
}  # fmt: skip
_stages, _slots, _numbers = st.sampled_from(STAGES), st.sampled_from(SLOTS), st.integers(0, 2)
_crashes: st.SearchStrategy[Mode] = st.sampled_from(("crash_before", "crash_after", "fail_before", "fail_after"))


@dataclass
class WaitingTime(FakeTime):
    """Time in which those of `beating` give their heartbeats while somebody waits."""

    beating: list[Lease] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        for lease in self.beating:
            lease.beat()


@dataclass
class Driver:
    """One process: its own way to the store, its lease, and a number that marks what it does.

    Its rows are marked by `salt` alone, so that now and then two processes write the same file for different commits.
    """

    number: int
    store: FaultStore
    lease: Lease | None = None

    @property
    def salt(self) -> int:
        return self.number % 3

    def arm(self, mode: Mode, calls_ahead: int) -> None:
        self.store.mode, self.store.at = mode, len(self.store.calls) + calls_ahead

    def check(self) -> None:
        if self.lease is not None:
            self.lease.check()


def own_name(table: pa.Table) -> str:
    return f"{hashlib.sha256(parquet_bytes(table)).hexdigest()[:16]}.parquet"


class LedgerMachine(RuleBasedStateMachine):
    """The rules are what may happen; the invariants what must hold after each. `seen` counts what really happened."""

    seen: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.time = WaitingTime()
        self.memory = MemoryStore(time=self.time)
        self.drivers = {slot: Driver(slot, FaultStore(self.memory)) for slot in SLOTS}
        self.num_drivers, self.epoch = len(SLOTS), 0
        self.released = True
        self.commits: dict[str, bytes] = {}
        self.manifests: dict[str, bytes] = {}
        self.shards = [Shard(0, ITEMS[:2]), Shard(1, ITEMS[2:4]), Shard(2, ITEMS[4:])]

    def layout(self, driver: Driver | None = None) -> RunLayout:
        return RunLayout(Location(driver.store if driver else self.memory, "runs/r1"))

    def step(self, stage: str, driver: Driver | None = None) -> Step:
        def run(folder: Location) -> StepResult:
            finished = ledger.finish(folder, ledger.planned(folder, ITEMS, 2))
            return StepResult(finished.files, {"writer": driver.number if driver else 0})

        return Step(stage, {}, (), run)

    def folder(self, stage: str, driver: Driver | None = None) -> Location:
        return self.step(stage).folder(self.layout(driver))

    def holds(self, driver: Driver) -> bool:
        return driver.lease is not None and driver.lease.epoch == self.epoch and not self.released

    # What drivers do

    @rule(slot=_slots)
    def open_run(self, slot: int) -> None:
        """A process starts; one that was in its place has ended without a word."""
        self.num_drivers += 1
        self.drivers[slot] = Driver(self.num_drivers, FaultStore(self.memory))

    @rule(slot=_slots, others_beat=st.booleans())
    def acquire(self, slot: int, others_beat: bool) -> None:
        """Refused when the holder gives a sign of life; else the next epoch, at once or after the timeout."""
        driver = self.drivers.get(slot)
        if driver is None or driver.lease is not None:
            return
        holders = [other.lease for other in self.drivers.values() if other.lease and self.holds(other)]
        self.time.beating = holders if others_beat else []
        began = self.time.seconds
        alive = others_beat and any(began - lease.last_beat <= TIMEOUT_S for lease in holders)
        try:
            clock = Clock(self.time.monotonic, self.time.sleep)
            driver.lease = acquire(self.layout(driver).leases, TIMEOUT_S, clock)
        except LeaseError as error:
            self.seen[f"refused with {error.code}"] += 1
            assert self.time.beating
            return
        finally:
            waited_s, self.time.beating = self.time.seconds - began, []
        self.seen["epoch taken" if self.released else "epoch taken over"] += 1
        assert not alive, "a live owner was taken over"
        assert waited_s == 0 or not self.released
        self.epoch, self.released = self.epoch + 1, False
        assert driver.lease.epoch == self.epoch

    @rule(slot=_slots)
    def heartbeat(self, slot: int) -> None:
        driver = self.drivers.get(slot)
        if driver is None or driver.lease is None:
            return
        taken_over = driver.lease.epoch < self.epoch
        for still_ours in (driver.lease.beat, driver.lease.check):
            if taken_over:
                with pytest.raises(LeaseError):
                    still_ours()
            else:
                still_ours()

    @rule(slot=_slots)
    def release(self, slot: int) -> None:
        driver = self.drivers.pop(slot, None)
        if driver is not None and driver.lease is not None:
            driver.lease.release()
            self.released = self.released or driver.lease.epoch == self.epoch

    @rule(slot=_slots, stage=_stages, number=_numbers)
    def commit(self, slot: int, stage: str, number: int) -> None:
        driver = self.drivers.get(slot)
        if driver is not None:
            self.write(driver, stage, number)

    def write(self, driver: Driver, stage: str, number: int) -> ledger.Commit:
        """Commit a shard as `driver`; lease or not, late or not, it may always try."""
        shard = ledger.planned(self.folder(stage, driver), ITEMS, 2)[number]
        done = [item for item in shard.items if item != POISON]
        table = pa.table({"item": done, "writer": [driver.salt] * len(done)}, schema=SCHEMA)
        set_aside = [QuarantinedRow(item, "engine_crash", 2, "died") for item in shard.items if item == POISON]
        counts = {"writer": driver.number}
        first = ledger.commit(self.folder(stage, driver), shard, table, done, set_aside, counts)
        self.seen["commit" if first.counts == counts else "commit of another one kept"] += 1
        if first.counts != counts and first.file.path.endswith(own_name(table)):
            self.seen["commit of another one with the same file kept"] += 1
        return first

    @rule(slot=_slots, stage=_stages)
    def work(self, slot: int, stage: str) -> None:
        """What a driver mostly does: all that is left of a stage, then its end."""
        driver = self.drivers.get(slot)
        if driver is None:
            return
        folder = self.folder(stage, driver)
        for shard in ledger.pending(folder, ledger.planned(folder, ITEMS, 2)):
            self.write(driver, stage, shard.number)
        self.finish_stage(slot, stage)

    @rule(slot=_slots, stage=_stages, number=_numbers, mode=_crashes, at=st.integers(0, 3))
    def write_attempt(self, slot: int, stage: str, number: int, mode: Mode, at: int) -> None:
        """A commit that ends half-way: the process dies there, or its call fails and it gives up."""
        driver = self.drivers.get(slot)
        if driver is None:
            return
        driver.arm(mode, at)
        try:
            self.write(driver, stage, number)
        except CrashError:
            self.seen["crash"] += 1
            del self.drivers[slot]
        except StorageError:
            pass
        finally:
            driver.store.at = -1

    @rule(slot=_slots, stage=_stages, number=_numbers, at=st.integers(0, 3))
    def lose_reply(self, slot: int, stage: str, number: int, at: int) -> None:
        """What was done is not heard of, so it is done again: that must not be taken for somebody else's."""
        driver = self.drivers.get(slot)
        if driver is None:
            return
        driver.arm("fail_after", at)
        try:
            first = self.write(driver, stage, number)
        except StorageError:
            first = self.write(driver, stage, number)
        finally:
            driver.store.at = -1
        assert self.write(driver, stage, number) == first

    @rule(slot=_slots)
    def crash(self, slot: int) -> None:
        self.drivers.pop(slot, None)

    @rule(seconds=st.floats(0, 2 * TIMEOUT_S))
    def stand_still(self, seconds: float) -> None:
        """Nobody does anything for a while; whoever looks next may take over."""
        self.time.sleep(seconds)

    @precondition(lambda self: self.epoch > 0 and not self.released)
    @rule(slot=_slots, stage=_stages)
    def takeover(self, slot: int, stage: str) -> None:
        """The holder sleeps for too long; a new process goes on; the old one wakes up and would end the stage."""
        sleeper = next((place for place, other in self.drivers.items() if self.holds(other)), None)
        if sleeper == slot:
            return
        self.open_run(slot)
        self.acquire(slot, others_beat=False)
        if sleeper is not None:
            with pytest.raises(LeaseError):
                self.drivers[sleeper].check()
            self.work(sleeper, stage)

    @rule(slot=_slots, stage=_stages)
    def finish_stage(self, slot: int, stage: str) -> None:
        driver = self.drivers.get(slot)
        if driver is None:
            return
        known = read_manifest(self.folder(stage))
        num_committed = len(ledger.committed(self.folder(stage)))
        lost = driver.lease is not None and driver.lease.epoch < self.epoch
        try:
            manifest = execute(self.step(stage, driver), self.layout(driver), {}, driver.check)
        except StorageError as error:
            self.seen[f"finish failed with {error.code}"] += 1
            assert num_committed < 3
            assert known is None
            return
        except LeaseError:
            self.seen["finish refused"] += 1
            assert lost
            assert known is None
            return
        self.seen["finished" if known is None else "was finished"] += 1
        assert num_committed == 3
        assert known is None or manifest == known
        assert known is not None or not lost, "a driver that was taken over finished a stage"
        assert known is not None or manifest.summary["writer"] == driver.number

    @rule(slot=_slots, stage=_stages, mode=_crashes, at=st.integers(0, 16))
    def crash_while_finishing(self, slot: int, stage: str, mode: Mode, at: int) -> None:
        driver = self.drivers.get(slot)
        if driver is None:
            return
        driver.arm(mode, at)
        try:
            execute(self.step(stage, driver), self.layout(driver), {}, driver.check)
        except CrashError:
            self.seen["crash"] += 1
            del self.drivers[slot]
        except (StorageError, LeaseError):
            pass
        finally:
            driver.store.at = -1

    @rule(stage=_stages)
    def gc(self, stage: str) -> None:
        """Files that no commit names are removed by whoever ends a step, be it late and without a lease."""
        folder = self.folder(stage)
        if len(ledger.committed(folder)) == 3:
            ledger.finish(folder, ledger.planned(folder, ITEMS, 2))
            assert len((folder / "data").walk()) == 3

    @rule(stage=_stages, content=st.binary(max_size=40))
    def corrupt_attempt(self, stage: str, content: bytes) -> None:
        """What nobody has committed may be anything."""
        folder = self.folder(stage)
        named = {json.loads(raw)["file"]["path"] for key, raw in self.commits.items() if key.startswith(folder.key)}
        for place in (folder / "data").walk():
            if place.relative_to(folder) not in named:
                self.seen["attempt corrupted"] += 1
                place.write_bytes(content)

    @precondition(lambda self: self.commits)
    @rule(data=st.data())
    def corrupt_committed(self, data: st.DataObject) -> None:
        """A flipped bit in a file that counts is seen by who reads it; then it is put right again."""
        key = data.draw(st.sampled_from(sorted(self.commits)))
        folder = Location(self.memory, key.split("/commits/")[0])
        entry = ledger.read_commit(folder, key.rsplit("/", 1)[-1].removesuffix(".json")).file
        place = folder / entry.path
        whole = place.read_bytes()
        position = data.draw(st.integers(0, len(whole) - 1))
        place.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(StorageError, match="was changed after it was written"):
            read_verified(folder, entry, SCHEMA)
        place.write_bytes(whole)

    # What must hold

    @invariant()
    def promises_hold(self) -> None:
        self.commits_only_grow_and_never_change()
        self.committed_files_are_there_and_whole()
        self.a_stage_is_finished_once_with_the_union_of_its_commits()

    def commits_only_grow_and_never_change(self) -> None:
        """(a) and (b): one commit per shard, for ever the first one."""
        now = self.stored("/commits/")
        assert self.commits.items() <= now.items()
        self.commits = now
        for stage in STAGES:
            names = [key for key in now if key.startswith(f"{self.folder(stage).key}/")]
            assert len(names) <= len(self.shards)

    def committed_files_are_there_and_whole(self) -> None:
        """(d): whatever was removed, it was nothing that counts."""
        for key, raw in self.commits.items():
            entry = json.loads(raw)["file"]
            content = self.memory.objects[f"{key.split('/commits/')[0]}/{entry['path']}"]
            assert hashlib.sha256(content).hexdigest() == entry["sha256"]

    def a_stage_is_finished_once_with_the_union_of_its_commits(self) -> None:
        """(c) and (e): the first manifest stays, and it lists what was committed, no more and no less."""
        now = self.stored("manifest.json")
        assert self.manifests.items() <= now.items()
        for key in now.keys() - self.manifests.keys():
            folder = Location(self.memory, key.removesuffix("/manifest.json"))
            manifest = read_manifest(folder)
            assert manifest is not None
            self.require_union(folder, manifest)
        self.manifests = now

    def require_union(self, folder: Location, manifest: Manifest) -> None:
        commits = [json.loads(raw)["file"] for key, raw in self.commits.items() if key.startswith(f"{folder.key}/")]
        files = [entry.path for entry in manifest.files if entry.path.startswith("data/")]
        assert sorted(files) == sorted(entry["path"] for entry in commits)
        rows = read_table(folder, SCHEMA).to_pylist()
        set_aside = (folder / "quarantine" / "engine_crash.jsonl").read_bytes().decode().splitlines()
        assert sorted(row["item"] for row in rows) == sorted(set(ITEMS) - {POISON})
        assert [json.loads(line)["item"] for line in set_aside] == [POISON]

    def stored(self, part: str) -> dict[str, bytes]:
        return {key: content for key, content in self.memory.objects.items() if part in key}


_slow = [HealthCheck.too_slow, HealthCheck.filter_too_much]


def test_no_order_of_events_breaks_a_promise() -> None:
    run_state_machine_as_test(
        LedgerMachine,
        settings=settings(
            derandomize=True, max_examples=400, stateful_step_count=40, deadline=None, suppress_health_check=_slow
        ),
    )
    # Rules that only ever return early would prove nothing.
    # How often each event comes depends on what else the process has imported: Hypothesis takes constants from there.
    assert [event for event in EVENTS if not LedgerMachine.seen[event]] == [], LedgerMachine.seen
    assert LedgerMachine.seen.keys() <= EVENTS


@pytest.mark.chaos
def test_no_random_order_of_events_breaks_a_promise() -> None:
    number = int(os.environ.get("WRPO_RAY_CHAOS_SEED", random.SystemRandom().getrandbits(32)))
    print(f"WRPO_RAY_CHAOS_SEED={number}")
    chosen = settings(
        database=None, max_examples=1500, stateful_step_count=60, deadline=None, suppress_health_check=_slow
    )
    seed(number)(LedgerMachine)
    run_state_machine_as_test(LedgerMachine, settings=chosen)
