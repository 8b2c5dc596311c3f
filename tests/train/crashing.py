"""Training workers with something wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from wrpo_ray.train import loop
from wrpo_ray.train.tasks import MicroResult, SFTTask


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
