"""After every source, in sequence and side by side, with engines and actors killed: the cluster has all of it back."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.util import placement_group_table

from tests.faults import sampling_runs as runs
from tests.faults.fake_engine import ALWAYS, is_alive, wait_until
from tests.faults.sampling_runs import FAULTS, IDS, fakes, prompts_step
from tests.faults.spanning_engine import SpanningGenerator
from wrpo_ray.config import ModelConfig, ResourcesConfig, SamplingConfig
from wrpo_ray.data.sampling import SamplingJob
from wrpo_ray.storage.location import locate

pytestmark = pytest.mark.cluster
SMALL = {"object_store_memory": 150 << 20, "include_dashboard": False}
GPUS_PER_NODE, BACK_S = 2, 20.0
ONE_GPU = ResourcesConfig(num_replicas=2, num_cpus=0.5, num_gpus=1, prompts_per_shard=8)
HALF = ResourcesConfig(num_replicas=2, num_cpus=0.5, num_gpus=0.5, prompts_per_shard=8)
TWO_GPUS = ResourcesConfig(num_cpus=0.5, num_gpus=2, prompts_per_shard=8)
TWO_NODES = ResourcesConfig(num_cpus=1.0, num_gpus=4, num_nodes=2, prompts_per_shard=8)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    assert not ray.is_initialized(), "these tests need a cluster of their own; run them before the others"
    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **SMALL})
    for _ in range(2):
        started.add_node(num_cpus=2, num_gpus=GPUS_PER_NODE, object_store_memory=150 << 20)
    started.wait_for_nodes()
    ray.init(address=started.address, log_to_driver=False)
    yield started
    ray.shutdown()
    started.shutdown()


def job_of(folder: Path, resources: ResourcesConfig) -> SamplingJob:
    sampling = SamplingConfig(num_samples=2)
    model = ModelConfig(name="fake", path="./none", sampling=sampling, resources=resources)
    make = functools.partial(SpanningGenerator, str(folder / "fake"))
    return SamplingJob(model, prompts_step(folder / "prompts"), ("sft",), 7, "identity", FAULTS, make_generator=make)


def draw(folder: Path, resources: ResourcesConfig) -> None:
    """Draw all responses although an engine dies once, and require them all."""
    fakes(folder).plan(IDS[20], "crash", times=1)
    result = runs.run(folder, job_of(folder, resources))
    rows = Counter(row.prompt_id for row in runs.responses(locate(folder / "step"), result))
    assert rows == dict.fromkeys(IDS, 2)
    assert result.summary["engine_starts"] >= 2


def whole_cluster() -> dict[str, float]:
    """Return what the nodes have, without what groups make of it and without the driver's own small objects."""
    total = sum((Counter(node["Resources"]) for node in ray.nodes() if node["Alive"]), Counter())
    return {name: value for name, value in total.items() if "_group_" not in name and name != "object_store_memory"}


def free_resources() -> dict[str, float]:
    return {name: value for name, value in ray.available_resources().items() if name != "object_store_memory"}


def groups_left() -> list[str]:
    return [table["name"] for table in placement_group_table().values() if table["state"] != "REMOVED"]


def assert_all_is_given_back(*folders: Path) -> None:
    left = [name for name in ray.util.list_named_actors() if name.startswith("sample fake")]
    assert not left
    assert not groups_left()
    deadline = time.monotonic() + BACK_S
    while free_resources() != (whole := whole_cluster()):
        assert time.monotonic() < deadline, f"{free_resources()} free of {whole}"
        time.sleep(0.1)
    pids = [row["pid"] for folder in folders for row in fakes(folder).events("start")]
    pids += [pid for folder in folders for row in fakes(folder).events("holders") for pid in row["pids"]]
    assert pids
    wait_until(lambda: not any(map(is_alive, pids)), "engines and their workers to be gone", timeout_s=BACK_S)


@contextlib.contextmanager
def the_actor_killed(folder: Path) -> Iterator[None]:
    """Kill the replica while its engine is in the middle of a batch."""
    at_work = fakes(folder).path / "faults" / f"{IDS[-1]}.count"

    def kill() -> None:
        wait_until(at_work.exists, "the last prompt to be worked on")
        os.kill(fakes(folder).events("start")[0]["actor"], signal.SIGKILL)

    fakes(folder).plan(IDS[-1], "slow", times=1, seconds=600)
    killing = threading.Thread(target=kill)
    killing.start()
    yield
    killing.join()
    assert len({row["actor"] for row in fakes(folder).events("start")}) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_sources_in_sequence(tmp_path: Path) -> None:
    for number, resources in enumerate((TWO_NODES, ONE_GPU, TWO_NODES)):
        folder = tmp_path / str(number)
        with the_actor_killed(folder) if number == 2 else contextlib.nullcontext():
            draw(folder, resources)
        assert_all_is_given_back(folder)
        if resources.num_nodes > 1:
            for row in fakes(folder).events("holders"):
                assert sorted(Counter(row["nodes"]).values()) == [GPUS_PER_NODE] * resources.num_nodes


@pytest.mark.usefixtures("cluster")
def test_sources_side_by_side(tmp_path: Path) -> None:
    folders = [tmp_path / str(number) for number in range(3)]
    wanted = zip(folders, (TWO_GPUS, ONE_GPU, HALF), strict=True)
    errors: list[BaseException] = []

    def work(folder: Path, resources: ResourcesConfig) -> None:
        try:
            draw(folder, resources)
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=work, args=pair) for pair in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert_all_is_given_back(*folders)


@pytest.mark.slow
def test_the_driver_is_killed(cluster: Cluster, tmp_path: Path) -> None:
    """Nobody is left to remove the group: it ends with the job."""
    fakes(tmp_path).plan(IDS[0], "hang", ALWAYS)
    command = [sys.executable, "-m", "tests.faults.test_all_is_given_back", str(cluster.address), str(tmp_path)]
    driver = subprocess.Popen(command)
    wait_until(lambda: bool(fakes(tmp_path).events("holders")), "the engine's workers")
    assert groups_left()
    driver.kill()
    driver.wait()
    wait_until(lambda: not groups_left(), "the group to be removed", timeout_s=BACK_S)
    wait_until(lambda: not [name for name in ray.util.list_named_actors() if "sample" in name], "the actors' end")
    assert_all_is_given_back(tmp_path)


if __name__ == "__main__":
    ray.init(address=sys.argv[1], log_to_driver=False)
    runs.run(Path(sys.argv[2]), job_of(Path(sys.argv[2]), TWO_NODES))
