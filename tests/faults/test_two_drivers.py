"""Two drivers of one run at once, the one standing still at every storage call while the other does the whole run.

Engines never repeat themselves here, so whoever's row is taken can be seen. Rows must be there once and in one version,
files must be what the manifest says, with the lease and without it.
"""

from __future__ import annotations

from functools import partial

from tests.faults.fault_store import FaultStore
from tests.faults.memory_store import MemoryStore
from tests.faults.small_run import NUM_SAMPLES, RUN, SOURCES, Engines, rows_of, run_small, small_steps
from wrpo_ray.errors import LeaseError
from wrpo_ray.schema import Quadruple, Response, ScoredResponse
from wrpo_ray.storage.location import Location
from wrpo_ray.storage.manifest import RunLayout, require_manifest
from wrpo_ray.storage.tables import verified_bytes


def num_calls(with_lease: bool) -> int:
    store = FaultStore(memory := MemoryStore())
    run_small(store, Engines(), memory.time, with_lease)
    return len(store.calls)


def require_one_version(memory: MemoryStore, engines: Engines) -> None:
    """Every file is what its manifest says, every row is there once, and no step saw another version of it."""
    layout = RunLayout(Location(memory, RUN))
    for step in small_steps(layout, engines):
        folder = step.folder(layout)
        for entry in require_manifest(folder).files:
            verified_bytes(folder, entry)
    names = (*SOURCES, "target")
    drawn = [row for name in names for row in rows_of(memory, engines, f"sample-{name}", Response)]
    scored = [row for name in names for row in rows_of(memory, engines, f"score-{name}", ScoredResponse)]
    keys = [(row.source, row.prompt_id, row.sample_index) for row in drawn]
    assert len(keys) == len(set(keys)) == len(names) * NUM_SAMPLES * 5
    assert {row.text for row in drawn} == {row.text for row in scored}
    assert {row.prompt_id for row in rows_of(memory, engines, "fuse", Quadruple)} == {"p1", "p2", "p4", "p5"}


def test_without_a_lease_no_row_is_doubled_wherever_the_other_driver_overtakes() -> None:
    for at in range(num_calls(with_lease=False)):
        memory, engines = MemoryStore(), Engines(repeats=False)
        other = partial(run_small, memory, engines, memory.time, with_lease=False)
        run_small(FaultStore(memory, "meanwhile_before", at, meanwhile=other), engines, memory.time, with_lease=False)
        require_one_version(memory, engines)


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
        require_one_version(memory, engines)
    # All but those that were overtaken after their last check, with nothing left to do.
    assert stopped > 0.9 * len(tried)


def manifests(memory: MemoryStore) -> dict[str, bytes]:
    return {key: content for key, content in memory.objects.items() if key.endswith("/manifest.json")}
