"""What one training worker does: set up, step by step through the run, save."""

from __future__ import annotations

import logging
import math
import os
import random
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy
import ray.train
import ray.train.torch
import torch
import torch.distributed as distributed

from wrpo_ray.batching import StepPlan, epoch_order, plan_step
from wrpo_ray.config import WRPOConfig
from wrpo_ray.schema import stable_hash
from wrpo_ray.train.job import TrainJob
from wrpo_ray.train.metrics import MetricsWriter
from wrpo_ray.train.model import load_model, save_model
from wrpo_ray.train.tasks import SFTTask, Task, WRPOTask
from wrpo_ray.train.tokens import TokenTable, name_some

log = logging.getLogger(__name__)


@dataclass
class Worker:
    """One rank's share of a run. `epoch` and `order` are the row order in use."""

    job: TrainJob
    engine: Any
    task: Task
    table: TokenTable
    device: torch.device
    rank: int
    epoch: int = -1
    order: tuple[int, ...] = ()

    def plan(self, step: int) -> StepPlan:
        epoch = step // self.job.steps_per_epoch
        if epoch != self.epoch:
            self.order = tuple(epoch_order(self.job.num_rows, self.job.seed, epoch))
            self.epoch = epoch
        return plan_step(step % self.job.steps_per_epoch, self.order, self.job.sizes)


class StoppedError(ArithmeticError):
    """Loss or gradient is not finite, on all ranks alike: the same would happen again, so it is not retried."""


def train_worker(raw_job: dict[str, Any]) -> dict[str, Any]:
    """Run on every Ray Train worker; return {"error": message} or the last step's metrics."""
    job = TrainJob.model_validate(raw_job)
    worker = set_up(job)
    first_step = resume(worker)
    writer = MetricsWriter(job, first_step) if worker.rank == 0 else None
    metrics: dict[str, float | int] = {}
    try:
        for step in range(first_step, job.num_steps):
            metrics = train_step(worker, step)
            done = step + 1
            if writer and (done % job.train.log_every_steps == 0 or done == job.num_steps):
                writer.write(done, metrics)
            if job.train.checkpoint_every_steps and done % job.train.checkpoint_every_steps == 0:
                report_checkpoint(worker, done, metrics)
    except StoppedError as error:
        return {"error": str(error)}
    finally:
        if writer:
            writer.close()
    save_final(worker)
    return {"metrics": metrics}


def set_up(job: TrainJob) -> Worker:
    """Return this rank's worker: seeds, model, DeepSpeed engine, rows."""
    device = ray.train.torch.get_device()
    device = cast(torch.device, device[0] if isinstance(device, list) else device)
    # DeepSpeed looks for accelerators when it is imported and would take a GPU that this worker was not given.
    os.environ["DS_ACCELERATOR"] = device.type
    from wrpo_ray.train import zero

    seed = stable_hash("train", job.seed, job.kind) % 2**32
    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)
    model = load_model(job.model, job.train)
    model.train()
    engine = zero.start_engine(model, job.train, job.sizes.num_micro_batches, job.num_steps)
    task: Task = SFTTask(job.pad_token_id)
    if isinstance(job.train, WRPOConfig):
        task = WRPOTask(job.train, job.num_steps, job.pad_token_id)
    table = TokenTable(Path(job.tokens), task.responses)
    return Worker(job, engine, task, table, device, ray.train.get_context().get_world_rank())


def resume(worker: Worker) -> int:
    """Load the last checkpoint that Ray Train knows, if any; return the optimizer steps that are done."""
    from wrpo_ray.train import zero

    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return 0
    with checkpoint.as_directory() as folder:
        zero.load_checkpoint(worker.engine, Path(folder))
    step = int(worker.engine.global_steps)
    log.info("resumed at step %d", step)
    return step


def train_step(worker: Worker, step: int) -> dict[str, float | int]:
    """Take optimizer step `step` (0-based) and return its metrics over the whole global batch.

    Raises StoppedError, before any parameter changes, when the loss or the gradient norm is not finite.
    """
    from wrpo_ray.train import zero

    engine, job = worker.engine, worker.job
    plan = worker.plan(step)
    units = worker.task.units(plan, worker.table)
    learning_rate = float(engine.get_lr()[0])
    sums: dict[str, torch.Tensor] = {}
    suspects: list[str] = []
    micro_batches = plan.ranks[worker.rank]
    for number, micro in enumerate(micro_batches, start=1):
        rows = worker.table.rows(micro.rows)
        result = worker.task.run(engine, rows, micro, step, worker.device)
        suspects += [row["prompt_id"] for row, fine in zip(rows, result.row_losses.isfinite(), strict=True) if not fine]
        for name, value in {"loss": result.loss_sum.detach(), **result.sums}.items():
            sums[name] = sums.get(name, 0.0) + value.double()
        # The sum over the global batch, by its units; DeepSpeed averages over ranks, which is undone here.
        engine.backward(result.loss_sum * (job.train.num_workers / units), scale_wrt_gas=False)
        if number < len(micro_batches):
            engine.step()
    means = {name: total / units for name, total in reduced_sums(sums).items()}
    if not math.isfinite(means["loss"]):
        raise StoppedError(_non_finite_message("loss", step, gathered(suspects)))
    try:
        grad_norm = zero.optimizer_step(engine)
    except zero.NonFiniteGradientError as error:
        prompt_ids = [row["prompt_id"] for row in worker.table.rows(plan.rows)]
        raise StoppedError(_non_finite_message("gradient norm", step, prompt_ids)) from error
    return {
        "loss": means.pop("loss"),
        "grad_norm": grad_norm,
        "learning_rate": learning_rate,
        "epoch": (step + 1) / job.steps_per_epoch,
        "num_tokens": worker.table.count(plan.rows),
        **worker.task.step_metrics(step, job.num_steps),
        **means,
    }


def _non_finite_message(what: str, step: int, prompt_ids: list[str]) -> str:
    rows = name_some(sorted(set(prompt_ids)))
    return f"the {what} of step {step + 1} is not finite; the step was not taken; prompt_ids: {rows}"


def reduced_sums(sums: dict[str, torch.Tensor]) -> dict[str, float]:
    """Return each sum over all ranks, in one message."""
    values = torch.stack(list(sums.values()))
    distributed.all_reduce(values)
    return dict(zip(sums, values.tolist(), strict=True))


def gathered(items: list[str]) -> list[str]:
    """Return the items of all ranks."""
    parts: list[list[str]] = [[] for _ in range(distributed.get_world_size())]
    distributed.all_gather_object(parts, items)
    return [item for part in parts for item in part]


def report_checkpoint(worker: Worker, step: int, metrics: dict[str, float | int]) -> None:
    """Store the training state in Ray Train's storage; all ranks call it."""
    from wrpo_ray.train import zero

    # Ranks on one machine need their own folders: Ray Train merges what each of them hands in.
    folder = Path(tempfile.mkdtemp(prefix=f"wrpo-checkpoint-{worker.rank}-"))
    try:
        zero.save_checkpoint(worker.engine, folder)
        ray.train.report({"step": step, **metrics}, checkpoint=ray.train.Checkpoint.from_directory(str(folder)))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def save_final(worker: Worker) -> None:
    """Write the trained model to <out>/model; all ranks call it."""
    from wrpo_ray.train import zero

    state = zero.whole_state(worker.engine)
    if state is not None:
        save_model(worker.engine.module, state, worker.job.model, Path(worker.job.out) / "model")
    distributed.barrier()
