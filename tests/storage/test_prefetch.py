"""The next model is on the node before its turn: fetched once, beside other work, and never a reason to fail."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest
import ray

from tests.faults import sampling_runs as runs
from tests.faults.fake_engine import wait_until
from tests.faults.sampling_runs import IDS, fakes, sampling_job
from tests.storage.s3_server import Fault, S3Server
from wrpo_ray.config import ModelFiles, ResourcesConfig
from wrpo_ray.data.model_files import make_ready, read_ahead
from wrpo_ray.data.prefetch import Coming, Prefetcher
from wrpo_ray.models import local_model
from wrpo_ray.scheduling.nodes import Node
from wrpo_ray.scheduling.ray_nodes import alive_nodes
from wrpo_ray.storage import node_cache

pytestmark = pytest.mark.usefixtures("local_ray")
SLOW_S = 0.5


def weights_only(**settings: object) -> Fault:
    """Every request for weights, counted, and slow enough to be seen."""
    return Fault("slow", methods=("GET",), path="*model.safetensors", wait_s=SLOW_S, **settings)  # pyright: ignore[reportArgumentType]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(node_cache.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def put_model(s3: S3Server) -> str:
    bucket = s3.new_bucket()
    for name in ("config.json", "model.safetensors"):
        s3.client().put_object(Bucket=bucket, Key=f"model/{name}", Body=name.encode() * 100)
    return f"s3://{bucket}/model"


def coming(path: str, s3: S3Server, cache: Path, num_replicas: int = 1) -> Coming:
    env_vars = {**s3.environment, node_cache.CACHE_VARIABLE: str(cache)}
    return Coming(ModelFiles(path=path), ResourcesConfig(env_vars=env_vars, num_replicas=num_replicas))


@pytest.fixture
def nodes() -> list[Node]:
    return alive_nodes(ray.nodes())


@ray.remote(num_cpus=0)
def asked_for(path: str) -> float:
    """Do what a replica does before its engine starts; returns its seconds."""
    began = time.monotonic()
    local_model(path)
    return time.monotonic() - began


def test_the_second_engine_starts_from_a_warm_cache(
    s3: S3Server, cache: Path, nodes: list[Node], tmp_path: Path
) -> None:
    """While a source samples the next one's weights come; then its replicas find them, all at once."""
    path = put_model(s3)
    models = {"sample-second": coming(path, s3, cache, num_replicas=3)}
    prefetcher = Prefetcher(models, num_ahead=1)
    fakes(tmp_path).plan(IDS[-1], "slow", times=1, seconds=4.0)
    with s3.failing(weights_only()) as requests:
        for _ in range(3):
            prefetcher.ahead(["sample-second"], nodes)
        runs.run(tmp_path, sampling_job(tmp_path, accelerator_type=None))
        ended_at = time.time()
        (copy,) = (place for place in cache.iterdir() if place.is_dir())
        assert copy.stat().st_mtime < ended_at - 1, "the weights came after the first source had ended"
        task = asked_for.options(runtime_env={"env_vars": models["sample-second"].resources.env_vars})
        waits = ray.get([task.remote(path) for _ in range(3)])
        assert max(waits) < SLOW_S
        assert requests["slow"] == 1
    prefetcher.close()


def test_replicas_that_come_during_the_download_wait_for_it(s3: S3Server, cache: Path, nodes: list[Node]) -> None:
    path = put_model(s3)
    models = {"sample-second": coming(path, s3, cache)}
    with s3.failing(weights_only()) as requests:
        prefetcher = Prefetcher(models, num_ahead=1)
        prefetcher.ahead(["sample-second"], nodes)
        task = asked_for.options(runtime_env={"env_vars": models["sample-second"].resources.env_vars})
        ray.get([task.remote(path) for _ in range(3)])
        assert requests["slow"] == 1
    prefetcher.close()


def test_what_goes_wrong_is_told_and_fails_nothing(
    s3: S3Server, cache: Path, nodes: list[Node], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    models = {"sample-none": coming(f"s3://{s3.new_bucket()}/nothing", s3, cache)}
    prefetcher = Prefetcher(models, num_ahead=1)

    def told() -> bool:
        prefetcher.ahead(["sample-none"], nodes)
        return "could not be fetched before its turn" in caplog.text

    wait_until(told, "the warning", timeout_s=30)
    prefetcher.close()


def test_no_more_models_are_fetched_than_asked_for(s3: S3Server, cache: Path, nodes: list[Node]) -> None:
    reward = coming(put_model(s3), s3, cache)
    models = {f"sample-{name}": coming(put_model(s3), s3, cache) for name in "abc"}
    prefetcher = Prefetcher({**models, "score-a": reward, "score-b": reward}, num_ahead=1)
    prefetcher.ahead(["sample-b", "score-a", "sample-c"], nodes)
    assert sorted(path for path, _ in prefetcher._asked) == sorted([models["sample-b"].files.path, reward.files.path])
    prefetcher.close()
    off = Prefetcher(models, num_ahead=0)
    off.ahead(["sample-a"], nodes)
    assert not off._asked


def test_a_node_that_cannot_hold_a_replica_gets_nothing(s3: S3Server, cache: Path) -> None:
    resources = ResourcesConfig(num_gpus=4, num_nodes=2, accelerator_type="H100")
    models = {"sample-a": Coming(ModelFiles(path=put_model(s3)), resources)}
    wrong = [Node("one GPU", 8, 1, "H100"), Node("another type", 8, 2, "A100"), Node("no GPU", 8)]
    prefetcher = Prefetcher(models, num_ahead=1)
    prefetcher.ahead(["sample-a"], wrong)
    assert not prefetcher._asked


def test_a_full_disk_is_left_alone(s3: S3Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wrpo_ray.data.model_files._DISK_LEFT", 1.0)
    fetched = make_ready(ModelFiles(path=put_model(s3)))
    assert fetched.bytes_fetched == 0
    assert "a tenth of the disk" in str(fetched.skipped)
    assert not cache.exists()


def test_local_weights_are_read_ahead_within_bounds(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"model-{number}.safetensors").write_bytes(b"x" * 1000)
    (tmp_path / "optimizer.bin").write_bytes(b"x" * 1000)
    assert read_ahead(tmp_path) == 3000
    assert read_ahead(tmp_path, most_bytes=1500) == 1500
    assert read_ahead(tmp_path / "absent") == 0
