"""What a user reads when workers fail: our own errors as they are, others with step, rank and cause."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
from ray.exceptions import ActorDiedError

from tests.train.test_metrics import job as make_job
from wrpo_ray.errors import InterruptedRunError, ModelError, StorageError, WrpoError
from wrpo_ray.storage.location import locate
from wrpo_ray.train import fit
from wrpo_ray.train.fit import fit_workers, raise_worker_error
from wrpo_ray.train.preemption import PreemptionWatch


def two_workers(out, **fields):
    job = make_job(out)
    return job.model_copy(update={"train": job.train.model_copy(update={"num_workers": 2, **fields})})


def disk_full(raw_job: dict[str, Any]) -> dict[str, Any]:
    """Rank 1 cannot write; rank 0 waits for it."""
    import ray.train
    import torch.distributed as distributed

    if ray.train.get_context().get_world_rank() == 1:
        raise StorageError("cannot write checkpoint: no space left", code="WRPO-S001", help="make room")
    distributed.barrier()
    return {}


def dies_each_time(raw_job: dict[str, Any]) -> dict[str, Any]:
    """Rank 1 is killed in every attempt; each attempt leaves a file."""
    import ray.train
    import torch.distributed as distributed

    distributed.barrier()
    if ray.train.get_context().get_world_rank() == 1:
        (locate(raw_job["out"]) / "starts" / str(os.getpid())).write_bytes(b"")
        os.kill(os.getpid(), signal.SIGKILL)
    distributed.barrier()
    return {}


def test_an_error_of_ours_reaches_the_driver_as_it_was(local_ray, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.25")
    with pytest.raises(StorageError) as raised:
        fit_workers(disk_full, two_workers(tmp_path, max_failures=0))
    error = raised.value
    assert (error.message, error.code, error.help) == (
        "cannot write checkpoint: no space left", "WRPO-S001", "make room",
    )  # fmt: skip
    assert not list((tmp_path / "scratch").iterdir())


@pytest.mark.slow
def test_failures_are_bounded_and_the_one_that_caused_the_others_is_named(local_ray, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.25")
    (tmp_path / "metrics.jsonl").write_text('{"step": 3, "loss": 1.0}\n')
    with pytest.raises(ModelError) as raised:
        fit_workers(dies_each_time, two_workers(tmp_path, max_failures=1))
    error = raised.value
    assert error.code == "WRPO-T001"
    assert "training workers failed 2 times (`max_failures` is 1)" in error.message
    assert "the last step that was logged is 3 of 2; the last error, of rank 1: " in error.message
    assert len(list((tmp_path / "starts").iterdir())) == 2


def failure(worker_failures=None, error_type="WorkerGroupError"):
    from ray.train.v2.api import exceptions
    from ray.train.v2.api.preemption import PreemptionInfo

    if error_type == "PreemptionError":
        return exceptions.PreemptionError(PreemptionInfo(None, {"node": [1]}))
    if error_type == "ControllerError":
        return exceptions.ControllerError(worker_failures)
    return exceptions.WorkerGroupError("text", worker_failures)


def test_a_lost_connection_is_not_taken_for_the_cause(tmp_path):
    failures = {0: RuntimeError("gloo/transport/tcp: Connection reset by peer"), 1: KeyError("real")}
    with pytest.raises(ModelError, match="of rank 1: KeyError: 'real'"):
        raise_worker_error(make_job(tmp_path), failure(failures))
    with pytest.raises(ModelError, match="no step was done; the last error, of rank 0: RuntimeError: gloo"):
        raise_worker_error(make_job(tmp_path), failure({0: failures[0]}))


@pytest.mark.parametrize(
    ("error", "expected", "code"),
    [
        (failure(error_type="PreemptionError"), InterruptedRunError, "WRPO-T002"),
        (failure(TimeoutError("no room"), "ControllerError"), InterruptedRunError, "WRPO-T003"),
        (failure(StorageError("away", code="WRPO-S001"), "ControllerError"), StorageError, "WRPO-S001"),
        (failure(ActorDiedError(), "ControllerError"), ModelError, "WRPO-T001"),
        (failure({0: RuntimeError("x" * 9000)}), ModelError, "WRPO-T001"),
    ],
)
def test_every_end_of_a_worker_group_has_its_code(error, expected, code, tmp_path):
    with pytest.raises(WrpoError) as raised:
        raise_worker_error(make_job(tmp_path), error)
    assert (type(raised.value), raised.value.code) == (expected, code)
    assert len(raised.value.message) < 1000


def test_a_worker_that_dies_while_its_group_starts_is_replaced(tmp_path, monkeypatch):
    """Ray Train itself gives up then: measured with a worker killed in its first second."""
    outcomes = [failure(ActorDiedError(), "ControllerError"), failure(ActorDiedError(), "ControllerError"), {"done": 1}]

    def fit_once(worker, job):
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(fit, "_fit_once", fit_once)
    assert fit_workers(disk_full, two_workers(tmp_path, max_failures=2)) == {"done": 1}
    outcomes[:] = [failure(ActorDiedError(), "ControllerError")] * 2
    with pytest.raises(ModelError, match="training workers failed 2 times"):
        fit_workers(disk_full, two_workers(tmp_path, max_failures=1))
    assert outcomes == []


def test_each_notice_of_preemption_is_told_once(monkeypatch):
    import ray.train
    from ray.train.v2.api.preemption import PreemptionInfo

    told = [None, {"a": [1]}, {"a": [1]}, {"a": [1], "b": [0]}, {"b": [0]}, None]
    notices = iter(None if nodes is None else PreemptionInfo(None, nodes) for nodes in told)
    monkeypatch.setattr(ray.train, "get_preemption_info", lambda: next(notices))
    watch = PreemptionWatch()
    assert [watch.noticed() for _ in told] == [False, True, False, True, False, False]
