"""Training workers with something wrong."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from wrpo_ray.train import loop, resume
from wrpo_ray.train.tasks import MicroResult, SFTTask


@dataclass(frozen=True)
class Kill:
    """SIGKILL of one rank, once: at the start of a 0-based step, or in the checkpoint after so many steps.

    place: `step`, `upload` (files of this rank are stored), `before-commit`, `after-commit` (rank 0 alone commits).
    """

    rank: int
    step: int
    place: str = "step"


Worker = Callable[[dict[str, Any]], dict[str, Any]]


def dying(
    kills: Sequence[Kill], notes: Path, preempted_at: int | None = None, environment: Mapping[str, str] | None = None
) -> Worker:
    """Return a training worker that dies as told, each time once, and notes its steps in `notes`.

    preempted_at: 0-based step after which Ray Train's notice of a lost node arrives. environment: of the workers.
    """
    told = [asdict(kill) for kill in kills]

    def worker(raw_job: dict[str, Any]) -> dict[str, Any]:
        os.environ.update(environment or {})
        return _train(raw_job, [Kill(**kill) for kill in told], notes, preempted_at)

    return worker


def _train(raw_job: dict[str, Any], kills: list[Kill], notes: Path, preempted_at: int | None) -> dict[str, Any]:
    import ray.train

    notes.mkdir(exist_ok=True)
    rank = ray.train.get_context().get_world_rank()
    real_step, real_upload, real_commit = loop.train_step, resume.upload_folder, resume.commit_checkpoint
    done: list[int] = []

    def die_at(place: str, step: int) -> None:
        kill = Kill(rank, step, place)
        mark = notes / f"killed-{rank}-{step}-{place}"
        if kill in kills and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def train_step(worker: loop.Worker, step: int) -> dict[str, float | int]:
        die_at("step", step)
        metrics = real_step(worker, step)
        done[:] = [step + 1]
        rows = [list(micro.rows) for micro in worker.plan(step).ranks[rank]]
        with (notes / f"steps-{rank}.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps([step, rows]) + "\n")
        return metrics

    def upload_folder(*arguments: Any) -> Any:
        entries = real_upload(*arguments)
        die_at("upload", done[0])
        return entries

    def commit_checkpoint(folder: Any, step: int, *arguments: Any) -> None:
        die_at("before-commit", step)
        real_commit(folder, step, *arguments)
        die_at("after-commit", step)

    def get_preemption_info() -> Any:
        # The next attempt is on other nodes.
        if preempted_at is None or not done or done[0] <= preempted_at or list(notes.glob("killed-*")):
            return None
        return SimpleNamespace(preempted_node_ids=["node"], preempted_ranks=[1], deadline_ms=None)

    loop.train_step, resume.upload_folder, resume.commit_checkpoint = train_step, upload_folder, commit_checkpoint
    ray.train.get_preemption_info = get_preemption_info
    return loop.train_worker(raw_job)


def poison_second_gradient(raw_job: dict[str, Any]) -> dict[str, Any]:
    """Train with a loss that is finite everywhere, but whose gradient is not a number in step 2."""
    real_run = SFTTask.run

    def run(self: SFTTask, model: Any, rows: Any, micro: Any, step: int, device: Any) -> MicroResult:
        result = real_run(self, model, rows, micro, step, device)
        if step != 1:
            return result
        # The slope of a square root at 0 is infinite, times 0 it is not a number.
        return replace(result, loss_sum=result.loss_sum + (0.0 * result.loss_sum).sqrt())

    SFTTask.run = run
    return loop.train_worker(raw_job)
