"""Two drivers of one run at once, the one standing still at every storage call while the other does the whole run.

Engines never repeat themselves here, so whoever's row is taken can be seen. Rows must be there once and in one version,
files must be what the manifest says, with the lease and without it.
"""

from __future__ import annotations

from functools import partial

from tests.faults.fault_store import FaultStore
from tests.faults.memory_store import MemoryStore
from tests.faults.small_run import RUN, Engines, require_one_version, run_small
from wrpo_ray.errors import LeaseError
from wrpo_ray.storage.location import Location


def num_calls(with_lease: bool) -> int:
    store = FaultStore(memory := MemoryStore())
    run_small(store, Engines(), memory.time, with_lease)
    return len(store.calls)


def test_without_a_lease_no_row_is_doubled_wherever_the_other_driver_overtakes() -> None:
    for at in range(num_calls(with_lease=False)):
        memory, engines = MemoryStore(), Engines(repeats=False)
        other = partial(run_small, memory, engines, memory.time, with_lease=False)
        run_small(FaultStore(memory, "meanwhile_before", at, meanwhile=other), engines, memory.time, with_lease=False)
        require_one_version(Location(memory, RUN))


def test_a_driver_that_was_taken_over_finishes_no_step() -> None:
    stopped, tried = 0, range(2, num_calls(with_lease=True), 2)
    for at in tried:
        memory, engines = MemoryStore(), Engines(repeats=False)
        before: dict[str, bytes] = {}

        def other(memory: MemoryStore = memory, engines: Engines = engines, before: dict[str, bytes] = before) -> None:
            memory.time.sleep(10)
            run_small(memory, engines, memory.time)
            before.update(manifests(memory))

        try:
            run_small(FaultStore(memory, "meanwhile_before", at, meanwhile=other), engines, memory.time)
        except LeaseError as error:
            stopped += error.code == "WRPO-L002"
        assert manifests(memory) == before
        require_one_version(Location(memory, RUN))
    # All but those that were overtaken after their last check, with nothing left to do.
    assert stopped > 0.9 * len(tried)


def manifests(memory: MemoryStore) -> dict[str, bytes]:
    return {key: content for key, content in memory.objects.items() if key.endswith("/manifest.json")}
