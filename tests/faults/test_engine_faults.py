"""P-01 to P-06 on several Ray nodes: whatever is killed, no row is lost, none is doubled, none is another one."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from tests.faults import sampling_runs as runs
from tests.faults.fake_engine import START, is_alive, wait_until
from tests.faults.sampling_runs import (
    ENGINE_NODE,
    FAULTS,
    IDS,
    IN_FLIGHT,
    PROMPTS_PER_SHARD,
    fakes,
    num_commits,
    sampling_job,
)
from wrpo_ray.config import RowsConfig
from wrpo_ray.errors import InterruptedRunError, ModelError, QuarantineError
from wrpo_ray.storage.location import locate
from wrpo_ray.storage.stores import is_temporary

pytestmark = pytest.mark.cluster
NUM_SHARDS = len(IDS) // PROMPTS_PER_SHARD
SMALL = {"object_store_memory": 150 << 20, "include_dashboard": False}


def add_engine_node(cluster: Cluster) -> object:
    return cluster.add_node(num_cpus=1, resources={f"accelerator_type:{ENGINE_NODE}": 1.0})


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    assert not ray.is_initialized(), "these tests need a cluster of their own; run them before the others"
    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **SMALL})
    add_engine_node(started)
    ray.init(address=started.address, log_to_driver=False)
    yield started
    ray.shutdown()
    started.shutdown()


@contextmanager
def killer(*acts: Callable[[], None]) -> Iterator[None]:
    """Do the acts in the background; each waits for its own state. A failed one fails the test."""
    errors: list[BaseException] = []

    def work() -> None:
        try:
            for act in acts:
                act()
        except (AssertionError, OSError, LookupError) as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    yield
    thread.join()
    assert not errors, errors


def when_busy_with(folder: Path, item: str, then: Callable[[dict[str, int]], None]) -> Callable[[], None]:
    """Wait until an engine works on a batch with `item` after others were committed, then act on it."""
    faults = fakes(folder)
    faults.plan(item, "slow", times=1, seconds=3.0)

    def act() -> None:
        wait_until(lambda: any(item in event["ids"] for event in faults.events("batch")), f"a batch with {item}")
        pid = next(event["pid"] for event in faults.events("batch") if item in event["ids"])
        then(next(event for event in faults.events("start") if event["pid"] == pid))

    return act


def assert_complete(folder: Path, result: runs.StepResult) -> None:
    """Every row is there once, in order, and as an undisturbed engine gives it."""
    assert runs.responses(locate(folder / "step"), result) == runs.clean_responses()
    # A commit that was under way in a killed replica leaves a temporary file: `wrpo-ray inspect --repair` removes it.
    written = [path for path in (folder / "step" / "data").iterdir() if not is_temporary(path.name)]
    assert {path.relative_to(folder / "step").as_posix() for path in written} == set(runs.data_files(result))


def batches_by_item(folder: Path) -> Counter[str]:
    return Counter(item for event in fakes(folder).events("batch") for item in event["ids"])


def no_engine_left(folder: Path) -> bool:
    return not any(is_alive(event["pid"]) for event in fakes(folder).events("start"))


def test_killed_replicas_are_replaced(cluster: Cluster, tmp_path: Path) -> None:
    """P-01: kill -9 of the actor in the middle of two shards."""

    def kill(start: dict[str, int]) -> None:
        os.kill(start["actor"], signal.SIGKILL)

    with killer(when_busy_with(tmp_path, IDS[9], kill), when_busy_with(tmp_path, IDS[21], kill)):
        result = runs.run(tmp_path, sampling_job(tmp_path))
    assert_complete(tmp_path, result)
    assert len(fakes(tmp_path).events("start")) == 1 + 2
    # Only what was cut short is drawn again: the shards in the engine, and those whose commit was under way.
    again = Counter({item: count - 1 for item, count in batches_by_item(tmp_path).items() if count > 1})
    assert {*IDS[8:12], *IDS[20:24]} <= set(again)
    assert again.total() <= 2 * IN_FLIGHT * PROMPTS_PER_SHARD
    wait_until(lambda: no_engine_left(tmp_path), "the end of all engines", timeout_s=20)


def test_a_killed_engine_is_replaced_by_its_actor(cluster: Cluster, tmp_path: Path) -> None:
    """P-02: kill -9 of the engine's process; the actor lives on."""
    killed = []

    def kill(start: dict[str, int]) -> None:
        killed.append(time.time())
        os.kill(start["pid"], signal.SIGKILL)

    with killer(when_busy_with(tmp_path, IDS[9], kill)):
        result = runs.run(tmp_path, sampling_job(tmp_path))
    assert_complete(tmp_path, result)
    starts = fakes(tmp_path).events("start")
    assert len({start["actor"] for start in starts}) == 1
    assert len(starts) == result.summary["engine_starts"] == 2
    assert starts[1]["at"] - killed[0] < 10


def test_a_poison_row_is_set_aside(cluster: Cluster, tmp_path: Path) -> None:
    """P-03: it ends every engine that gets it."""
    fakes(tmp_path).plan(IDS[6], "crash")
    result = runs.run(tmp_path, sampling_job(tmp_path))
    expected = [row for row in runs.clean_responses() if row.prompt_id != IDS[6]]
    assert runs.responses(locate(tmp_path / "step"), result) == expected
    assert result.summary["quarantined"] == {"engine_crash": 1}
    assert result.summary["num_prompts_without_response"] == 1
    line = (tmp_path / "step" / "quarantine" / "engine_crash.jsonl").read_text()
    assert IDS[6] in line
    assert f"RuntimeError: CUDA error at {IDS[6]}" in line
    assert '"attempts": 5' in line
    assert len(fakes(tmp_path).events("start")) == result.summary["engine_starts"] <= 1 + 2 + 2 * 2


@pytest.mark.slow
def test_too_many_poison_rows_stop_the_step(cluster: Cluster, tmp_path: Path) -> None:
    """P-03: exit 4 with the names, before the rest is drawn; and again when the run is started again."""
    for item in (IDS[0], IDS[5]):
        fakes(tmp_path).plan(item, "crash")
    # Shards after the second one take their time, so that stopping early can be seen.
    fakes(tmp_path).plan(IDS[12], "slow", seconds=60.0)
    job = sampling_job(tmp_path, rows=RowsConfig(max_rows=1, max_fraction=1.0))
    with pytest.raises(QuarantineError, match="2 of 32 rows were set aside") as raised:
        runs.run(tmp_path, job)
    assert raised.value.exit_code == 4
    assert raised.value.code == "WRPO-Q001"
    assert IDS[0] in raised.value.message
    assert IDS[5] in raised.value.message
    assert str(tmp_path / "step" / "quarantine") in (raised.value.help or "")
    assert len((tmp_path / "step" / "quarantine" / "engine_crash.jsonl").read_text().splitlines()) == 2
    assert num_commits(tmp_path) < NUM_SHARDS
    wait_until(lambda: no_engine_left(tmp_path), "the end of all engines", timeout_s=30)
    num_batches = len(fakes(tmp_path).events("batch"))
    with pytest.raises(QuarantineError, match="2 of 32 rows were set aside"):
        runs.run(tmp_path, job)
    assert len(fakes(tmp_path).events("batch")) == num_batches


def test_a_hang_is_found_and_its_row_set_aside(cluster: Cluster, tmp_path: Path) -> None:
    """P-04: the engine neither dies nor answers."""
    fakes(tmp_path).plan(IDS[17], "hang")
    result = runs.run(tmp_path, sampling_job(tmp_path, FAULTS.model_copy(update={"stall_timeout_s": 0.8})))
    expected = [row for row in runs.clean_responses() if row.prompt_id != IDS[17]]
    assert runs.responses(locate(tmp_path / "step"), result) == expected
    assert result.summary["quarantined"] == {"engine_timeout": 1}
    wait_until(lambda: no_engine_left(tmp_path), "the end of all engines", timeout_s=20)


def test_a_model_that_never_starts_fails_soon_with_its_own_error(cluster: Cluster, tmp_path: Path) -> None:
    """P-05, always."""
    fakes(tmp_path).plan(START, "raise")
    started = time.monotonic()
    with pytest.raises(ModelError, match="RuntimeError: no luck with start") as raised:
        runs.run(tmp_path, sampling_job(tmp_path))
    assert time.monotonic() - started < 60
    assert raised.value.exit_code == 8
    assert raised.value.code == "WRPO-E001"
    assert len(fakes(tmp_path).events("start")) == FAULTS.engine_start_attempts


@pytest.mark.slow
def test_a_model_that_starts_in_the_end(cluster: Cluster, tmp_path: Path) -> None:
    """P-05, the first two times."""
    fakes(tmp_path).plan(START, "raise", times=2)
    result = runs.run(tmp_path, sampling_job(tmp_path))
    assert_complete(tmp_path, result)
    assert len(fakes(tmp_path).events("start")) == 3


@pytest.mark.slow
def test_a_replica_that_dies_too_often_is_given_up(cluster: Cluster, tmp_path: Path) -> None:
    """Restarts of an actor are bounded, and the error says so."""

    def kill(start: dict[str, int]) -> None:
        os.kill(start["actor"], signal.SIGKILL)

    # Further apart than the shards in flight: the second act must meet the replica that came after the first.
    numbers = (1, 1 + (IN_FLIGHT + 1) * PROMPTS_PER_SHARD)
    acts = [when_busy_with(tmp_path, IDS[number], kill) for number in numbers]
    with killer(*acts), pytest.raises(InterruptedRunError, match="a replica died more than 1 times") as raised:
        runs.run(tmp_path, sampling_job(tmp_path, FAULTS.model_copy(update={"max_replica_restarts": 1})))
    assert raised.value.code == "WRPO-E002"


def test_a_step_that_no_node_can_run_does_not_wait_for_ever(cluster: Cluster, tmp_path: Path) -> None:
    """Ray Data's stop after a time without progress is set on purpose."""
    job = sampling_job(tmp_path, FAULTS.model_copy(update={"no_progress_timeout_s": 3.0}), accelerator_type="NOWHERE")
    with pytest.raises(InterruptedRunError, match="no shard ended for 3 s") as raised:
        runs.run(tmp_path, job)
    assert raised.value.code == "WRPO-E004"


@pytest.mark.slow
def test_a_lost_node_is_left_behind(cluster: Cluster, tmp_path: Path) -> None:
    """P-06: the node with the replica that is at work on a shard goes away."""
    add_engine_node(cluster)

    def remove_its_node(start: dict[str, int]) -> None:
        wait_until(lambda: len(fakes(tmp_path).events("start")) == 2, "an engine on each node")
        raylet = int(Path(f"/proc/{start['actor']}/stat").read_text().rpartition(")")[2].split()[1])
        lost = [node for node in cluster.worker_nodes if node.all_processes["raylet"][0].process.pid == raylet]
        assert len(lost) == 1
        cluster.remove_node(lost[0], allow_graceful=False)

    # Long enough for the second replica to start before the first one has done everything.
    fakes(tmp_path).plan(IDS[1], "slow", times=1, seconds=6.0)
    with killer(when_busy_with(tmp_path, IDS[17], remove_its_node)):
        result = runs.run(tmp_path, sampling_job(tmp_path, num_replicas=2))
    assert len(cluster.worker_nodes) == 1
    assert_complete(tmp_path, result)
    assert len(fakes(tmp_path).events("start")) == 2 + 1
    twice = {item for item, count in batches_by_item(tmp_path).items() if count > 1}
    assert set(IDS[16:20]) <= twice
    assert len(twice) <= IN_FLIGHT * PROMPTS_PER_SHARD
    wait_until(lambda: no_engine_left(tmp_path), "the end of all engines", timeout_s=20)
