"""P-34: a run that is killed before or after any storage call, then started again, ends as if nothing had happened.

"Any" is every call of a whole run, one by one; pairs and triples of crashes are sampled. What is compared is every
file of the run, byte for byte (manifests without their seconds), so that a lost row, a doubled row, a changed row and
a forgotten file all fail.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.faults.fault_store import CrashError, FaultStore, Mode
from tests.faults.memory_store import MemoryStore
from tests.faults.small_run import RUN, Engines, require_one_version, run_small, snapshot
from wrpo_ray.errors import StorageError
from wrpo_ray.storage.location import Location

MODES: tuple[Mode, ...] = ("crash_before", "crash_after", "fail_before", "fail_after")


@cache
def undisturbed() -> tuple[dict[str, bytes], int, int]:
    """All files of a run that nothing happens to, its number of storage calls, and its number of shards."""
    store = FaultStore(memory := MemoryStore())
    run_small(store, engines := Engines(), memory.time)
    assert set(engines.shards.values()) == {1}
    return snapshot(memory.objects), len(store.calls), len(engines.shards)


def disturbed(faults: list[tuple[Mode, int]], engines: Engines) -> tuple[MemoryStore, int]:
    """Start the run once for each fault and then once without; return what is stored, and how many faults struck."""
    memory, num_struck = MemoryStore(), 0
    for mode, at in faults:
        with suppress(CrashError, StorageError):
            run_small(store := FaultStore(memory, mode, at), engines, memory.time)
        num_struck += len(store.calls) > at
    run_small(memory, engines, memory.time)
    return memory, num_struck


def test_the_run_is_large_enough_to_mean_something() -> None:
    files, num_calls, num_shards = undisturbed()
    assert num_shards == 12
    assert num_calls > 150
    assert sum(key.endswith("manifest.json") for key in files) == 10
    assert {key.rsplit("/", 1)[-1] for key in files if "/quarantine/" in key} >= {"engine_crash.jsonl"}


@pytest.mark.parametrize(("mode", "stride"), list(zip(MODES, (1, 1, 3, 3), strict=True)))
def test_every_crash_point_gives_the_undisturbed_run(mode: Mode, stride: int) -> None:
    """Crashes at every single call; calls that only fail, which is milder, at every third."""
    expected, num_calls, num_shards = undisturbed()
    redone = []
    for at in range(0, num_calls, stride):
        engines = Engines()
        memory, num_struck = disturbed([(mode, at)], engines)
        assert num_struck == 1
        assert snapshot(memory.objects) == expected, f"{mode} call {at}"
        redone.append(engines.shards.total() - num_shards)
        assert max(engines.shards.values()) <= 2
    # Work lost per crash is bounded by the one shard in flight; it is lost only between generating and committing.
    assert max(redone) == 1
    assert redone.count(1) <= 2 * num_shards


@settings(derandomize=True, max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(MODES), st.integers(0, 260)), min_size=2, max_size=4))
def test_several_crashes_in_a_row_give_the_undisturbed_run(faults: list[tuple[Mode, int]]) -> None:
    expected, _, num_shards = undisturbed()
    engines = Engines()
    memory, _ = disturbed(faults, engines)
    assert snapshot(memory.objects) == expected
    assert engines.shards.total() <= num_shards + len(faults)


def test_an_engine_that_never_repeats_itself_gives_one_version_of_every_row() -> None:
    """Real engines draw other responses after a restart: no row may be lost, doubled, or seen in two versions."""
    _, num_calls, num_shards = undisturbed()
    for at in range(0, num_calls, 2):
        engines = Engines(repeats=False)
        memory, _ = disturbed([("crash_before", at)], engines)
        require_one_version(Location(memory, RUN))
        assert len(snapshot(memory.objects)) == len(undisturbed()[0]), "no file is left that nobody names"
        assert engines.shards.total() <= num_shards + 1
