"""One worker group of Ray Train: how it is started, how often again, and what its errors mean to a user."""

from __future__ import annotations

import logging
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from wrpo_ray.config import TrainConfig
from wrpo_ray.errors import InterruptedRunError, ModelError, raise_own
from wrpo_ray.train.job import TrainJob
from wrpo_ray.train.metrics import METRICS_FILE, read_metrics

if TYPE_CHECKING:
    from ray.train import ScalingConfig

log = logging.getLogger(__name__)

# Spot nodes go often in a run of days, and each one costs a restart; without a bound a queue of nodes that are taken
# away at once would be tried for ever.
_MAX_PREEMPTIONS = 1000
# Ray Train waits a minute for room each time: about an hour for nodes that are slow to come.
_MAX_STARTS_WITHOUT_ROOM = 60
_MAX_ERROR_CHARACTERS = 600
_LOST_CONNECTION = re.compile(r"Connection (reset|closed|refused)|gloo/transport|ncclRemoteError|ncclSystemError")


def fit_workers(worker: Callable[[dict[str, Any]], dict[str, Any]], job: TrainJob) -> dict[str, Any]:
    """Run `worker` on all ranks of `job` under Ray Train and return what rank 0 returned.

    Raises the workers' own WrpoError when one of them raised one; ModelError when workers failed more often than
    `max_failures`; InterruptedRunError when nodes were taken away too often, or none came.
    """
    from ray.train.v2.api.exceptions import TrainingFailedError

    for num_lost in range(job.train.max_failures + 1):
        try:
            return _fit_once(worker, job)
        except TrainingFailedError as error:
            if num_lost == job.train.max_failures or not died_while_starting(error):
                raise_worker_error(job, error)
                raise
            log.warning("%s: a worker died while the others started; trying again", job.kind)
    raise AssertionError("the last attempt returns or raises")


def died_while_starting(error: Exception) -> bool:
    """Tell whether a worker died while its group was set up: Ray Train takes that for an error of its own and stops.

    See RETRYABLE_CONTROLLER_ERRORS in ray/train/v2/_internal/execution/failure_handling/default.py (2.60).
    """
    from ray.exceptions import RayActorError
    from ray.train.v2.api.exceptions import ControllerError

    return isinstance(error, ControllerError) and isinstance(error.controller_failure, RayActorError)


def scaling_of(train: TrainConfig) -> ScalingConfig:
    """Return what the workers of a training section take."""
    from ray.train import ScalingConfig

    on_gpu = train.num_gpus_per_worker > 0
    return ScalingConfig(
        num_workers=train.num_workers,
        use_gpu=on_gpu,
        resources_per_worker={"CPU": train.num_cpus_per_worker, **({"GPU": 1.0} if on_gpu else {})},
        accelerator_type=train.accelerator_type,
    )


def _fit_once(worker: Callable[[dict[str, Any]], dict[str, Any]], job: TrainJob) -> dict[str, Any]:
    """Run one fit of Ray Train; raises its TrainingFailedError."""
    from ray.train import FailureConfig, RunConfig
    from ray.train.torch import TorchTrainer

    from wrpo_ray.train.process_group import LoopbackTorchConfig

    train = job.train
    on_gpu = train.num_gpus_per_worker > 0
    with _ray_train_folder(job) as folder:
        trainer = TorchTrainer(
            worker,
            train_loop_config=job.model_dump(mode="json"),
            torch_config=LoopbackTorchConfig(backend="nccl" if on_gpu else "gloo"),
            scaling_config=scaling_of(train),
            run_config=RunConfig(
                # Never the same twice: Ray Train reads back what it finds under a name, and a cut file there would
                # stop every later start. All that lasts is in our own checkpoints.
                name=f"{job.kind}-{uuid.uuid4().hex[:12]}",
                storage_path=str(folder),
                failure_config=FailureConfig(
                    max_failures=train.max_failures,
                    controller_failure_limit=_MAX_STARTS_WITHOUT_ROOM,
                    max_preemption_failures=_MAX_PREEMPTIONS,
                    # DeepSpeed's collectives need all ranks, so ranks that stay cannot save without the others.
                    relax_collectives_on_preemption=False,
                    preemption_grace_s=0.0,
                ),
            ),
        )
        # What rank 0 returned: the workers of this package return a dictionary.
        return cast(dict[str, Any], trainer.fit().return_value)


@contextmanager
def _ray_train_folder(job: TrainJob) -> Iterator[Path]:
    """Give Ray Train a folder for its own state.

    Only the driver's node writes there: workers touch it for `ray.train.report` alone, which is never called
    (ray/train/v2/_internal/execution/storage.py), so no storage has to be shared.
    """
    local = job.scratch.local_path
    if local is not None:
        local.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="ray-train-", dir=local))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def raise_worker_error(job: TrainJob, error: Exception) -> None:
    """Raise what a failed fit means to the user; `error` is Ray Train's TrainingFailedError."""
    from ray.train.v2.api.exceptions import ControllerError, PreemptionError

    failures = dict(getattr(error, "worker_failures", {}))
    for failure in failures.values():
        raise_own(failure)
    where = _where(job)
    if isinstance(error, PreemptionError):
        raise InterruptedRunError(
            f"{job.kind}: nodes were taken away more than {_MAX_PREEMPTIONS} times; {where}", code="WRPO-T002",
            help="run the same command again: it goes on from the last checkpoint",
        ) from error  # fmt: skip
    if isinstance(error, ControllerError):
        raise_own(error.controller_failure)
        if died_while_starting(error):
            failures = {0: error.controller_failure}
    if isinstance(error, ControllerError) and not failures:
        raise InterruptedRunError(
            f"{job.kind}: the cluster had no room for {job.train.num_workers} workers, or could not start them, in"
            f" {_MAX_STARTS_WITHOUT_ROOM} attempts: {_short(error.controller_failure)}", code="WRPO-T003",
            help="run the same command again when nodes are there, or lower `num_workers`",
        ) from error  # fmt: skip
    rank, failure = _cause(failures) if failures else (0, error)
    raise ModelError(
        f"{job.kind}: training workers failed {job.train.max_failures + 1} times (`max_failures` is"
        f" {job.train.max_failures}); {where}; the last error, of rank {rank}: {_short(failure)}", code="WRPO-T001",
        help="mend what the error names and run the same command again: it goes on from the last checkpoint",
    ) from error  # fmt: skip


def _cause(failures: dict[int, Exception]) -> tuple[int, Exception]:
    """Return the rank and error that the others follow from: ranks that wait for a dead one lose a connection."""
    own = [(rank, error) for rank, error in sorted(failures.items()) if not _LOST_CONNECTION.search(str(error))]
    return own[0] if own else min(failures.items())


def _where(job: TrainJob) -> str:
    lines = read_metrics(job.folder / METRICS_FILE)
    return f"the last step that was logged is {lines[-1]['step']} of {job.num_steps}" if lines else "no step was done"


def _short(error: BaseException) -> str:
    """Return the end of an error's text: Ray puts whole tracebacks there, the cause last."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= _MAX_ERROR_CHARACTERS else f"... {text[-_MAX_ERROR_CHARACTERS:]}"
