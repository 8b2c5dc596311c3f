"""However a step ends, its replicas are dead when it returns: not when the driver next collects its garbage."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from tests.faults import sampling_runs as runs
from tests.faults.fake_engine import ALWAYS, START, is_alive, wait_until
from tests.faults.sampling_runs import IDS, fakes, sampling_job
from wrpo_ray.config import ResourcesConfig, RowsConfig
from wrpo_ray.data.replicas import Replicas
from wrpo_ray.errors import ModelError, QuarantineError

pytestmark = pytest.mark.usefixtures("local_ray")
# Ray frees what a dead actor held as soon as its process is gone; a raylet reports that ten times a second.
RESOURCES_BACK_S = 10.0


@pytest.fixture
def no_collector() -> Iterator[None]:
    """What only a collection of cycles would free stays."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def replicas_of_the_step() -> list[str]:
    return [name for name in ray.util.list_named_actors() if name.startswith("sample fake ")]


def assert_all_is_given_back(folder: Path) -> None:
    assert not replicas_of_the_step()
    began = time.monotonic()
    while ray.available_resources().get("CPU") != ray.cluster_resources()["CPU"]:
        assert time.monotonic() - began < RESOURCES_BACK_S, ray.available_resources()
        time.sleep(0.05)
    engines = [row["pid"] for row in fakes(folder).events("start")]
    assert engines
    wait_until(lambda: not any(is_alive(pid) for pid in engines), "the engines to be gone", timeout_s=RESOURCES_BACK_S)


@pytest.mark.usefixtures("no_collector")
def test_a_step_that_ends_well(tmp_path: Path) -> None:
    runs.run(tmp_path, sampling_job(tmp_path, num_replicas=2, accelerator_type=None))
    assert_all_is_given_back(tmp_path)
    # They were asked to shut down, not killed.
    assert len(fakes(tmp_path).events("close")) == len(fakes(tmp_path).events("start"))


@pytest.mark.usefixtures("no_collector")
def test_a_step_that_fails_while_its_error_is_kept(tmp_path: Path) -> None:
    fakes(tmp_path).plan(START, "raise", ALWAYS)
    with pytest.raises(ModelError) as kept:
        runs.run(tmp_path, sampling_job(tmp_path, num_replicas=3, accelerator_type=None))
    assert_all_is_given_back(tmp_path)
    assert kept.value.code == "WRPO-E001"


@pytest.mark.usefixtures("no_collector")
def test_a_step_that_the_budget_stops_while_replicas_work(tmp_path: Path) -> None:
    fakes(tmp_path).plan(IDS[0], "too_long", ALWAYS)
    for prompt_id in IDS[-8:]:
        fakes(tmp_path).plan(prompt_id, "slow", ALWAYS, seconds=15.0)
    rows = RowsConfig(prompt_too_long="quarantine", max_rows=0)
    began = time.monotonic()
    with pytest.raises(QuarantineError):
        runs.run(tmp_path, sampling_job(tmp_path, rows=rows, num_replicas=3, accelerator_type=None))
    assert time.monotonic() - began < 14, "it waited for work that nobody wants any more"
    assert_all_is_given_back(tmp_path)


def test_an_ended_pool_starts_no_replica() -> None:
    replicas = Replicas("none", ResourcesConfig())
    replicas.end(gracefully=True)
    with pytest.raises(RuntimeError, match="has ended"):
        replicas.options()
