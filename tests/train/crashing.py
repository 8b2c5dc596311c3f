"""Training workers with something wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from wrpo_ray.train import loop
from wrpo_ray.train.tasks import MicroResult, SFTTask


def crash_after_first_checkpoint(raw_job: dict[str, Any]) -> dict[str, Any]:
    """Train, but die on all ranks behind the first checkpoint; <out>/started-at lists the step of every start."""
    starts = Path(raw_job["out"]) / "started-at"
    real_resume, real_report = loop.resume, loop.report_checkpoint
    started_at: list[int] = []

    def resume(worker: loop.Worker) -> int:
        started_at.append(real_resume(worker))
        if worker.rank == 0:
            with starts.open("a", encoding="utf-8") as stream:
                stream.write(f"{started_at[0]}\n")
        return started_at[0]

    def report_checkpoint(worker: loop.Worker, step: int, metrics: dict[str, float | int]) -> None:
        real_report(worker, step, metrics)
        if started_at == [0]:
            raise RuntimeError("crashed on purpose")

    loop.resume, loop.report_checkpoint = resume, report_checkpoint
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
