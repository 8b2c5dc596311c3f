"""What one training worker does: set up, step by step through the run, save."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import ray.train
import ray.train.torch
import torch
import torch.distributed as distributed

from wrpo_ray.batching import StepPlan, epoch_order, plan_step
from wrpo_ray.config import WRPOConfig
from wrpo_ray.models import on_node, on_node_for_good
from wrpo_ray.redaction import redact_logs
from wrpo_ray.schema import stable_hash
from wrpo_ray.storage.manifest import FileEntry, read_manifest
from wrpo_ray.train import resume
from wrpo_ray.train.background import CheckpointWriter
from wrpo_ray.train.collate import Collate
from wrpo_ray.train.engine_settings import zero_stage
from wrpo_ray.train.files import replace_folder
from wrpo_ray.train.job import TrainJob
from wrpo_ray.train.lora import ADAPTER, add_adapters, count_parameters, merged, save_adapter
from wrpo_ray.train.metrics import TENSORBOARD, MetricsWriter
from wrpo_ray.train.model import load_policy, save_model
from wrpo_ray.train.preemption import PreemptionWatch
from wrpo_ray.train.random_state import seed_everything
from wrpo_ray.train.ranks import Ranks, current_ranks
from wrpo_ray.train.tasks import SFTTask, Task, WRPOTask
from wrpo_ray.train.tokens import RESPONSES_OF, TokenTable, name_some

log = logging.getLogger(__name__)

MODEL = "model"


@dataclass
class Worker:
    """One rank's share of a run. `epoch` and `order` are the row order in use; rank 0 has the writer."""

    job: TrainJob
    ranks: Ranks
    attempt: resume.Attempt
    engine: Any
    task: Task
    collate: Collate
    table: TokenTable
    device: torch.device
    checkpoints: CheckpointWriter
    writer: MetricsWriter | None = None
    epoch: int = -1
    order: tuple[int, ...] = ()

    @property
    def rank(self) -> int:
        return self.ranks.rank

    @cached_property
    def row_tokens(self) -> list[int]:
        return self.collate.row_tokens(self.table)

    def plan(self, step: int) -> StepPlan:
        epoch = step // self.job.steps_per_epoch
        if epoch != self.epoch:
            self.order = tuple(epoch_order(self.job.num_rows, self.job.seed, epoch))
            self.epoch = epoch
        step_in_epoch = step % self.job.steps_per_epoch
        return plan_step(step_in_epoch, self.order, self.job.sizes, self.row_tokens, self.collate.fit)


class StoppedError(ArithmeticError):
    """Loss or gradient is not finite, on all ranks alike: the same would happen again, so it is not retried."""


def train_worker(raw_job: dict[str, Any]) -> dict[str, Any]:
    """Run on every Ray Train worker; return {"error": message}, or the last step's metrics and the files made."""
    redact_logs()
    job = TrainJob.model_validate(raw_job)
    ranks = current_ranks()
    worker = set_up(job, ranks, resume.begin(job, ranks))
    try:
        metrics = train(worker)
        outcome = {
            "metrics": metrics,
            "files": [dataclasses.asdict(entry) for entry in save_final(worker)],
            "share_prompts": worker.collate.share_prompts,
            "num_trained_parameters": count_parameters(worker.engine.module)[0],
        }
    except StoppedError as error:
        worker.checkpoints.finish()
        if worker.writer:
            worker.writer.close()
        outcome = {"error": str(error)}
    finally:
        worker.checkpoints.abandon()
    resume.end(job, worker.attempt, ranks)
    return outcome


def train(worker: Worker) -> dict[str, float | int]:
    """Take all steps that are left, saving and logging on the way; return the last step's metrics."""
    job, first_step = worker.job, worker.attempt.first_step
    watch = PreemptionWatch()
    metrics: dict[str, float | int] = {}
    for step in range(first_step, job.num_steps):
        metrics = train_step(worker, step)
        done = step + 1
        worker.checkpoints.poll()
        if worker.writer and (done % job.train.log_every_steps == 0 or done == job.num_steps):
            worker.writer.write(done, metrics)
        due = bool(job.train.checkpoint_every_steps) and done % job.train.checkpoint_every_steps == 0
        must_go = watch.noticed()
        if must_go or due:
            checkpoint(worker, done, in_background=job.train.checkpoint_in_background and not must_go)
    worker.checkpoints.finish()
    return metrics


def set_up(job: TrainJob, ranks: Ranks, attempt: resume.Attempt) -> Worker:
    """Return this rank's worker: model, DeepSpeed engine, rows, all as they were at the attempt's first step."""
    device = ray.train.torch.get_device()
    device = cast(torch.device, device[0] if isinstance(device, list) else device)
    # DeepSpeed looks for accelerators when it is imported and would take a GPU that this worker was not given.
    os.environ["DS_ACCELERATOR"] = device.type
    from wrpo_ray.train import zero

    seed_everything(stable_hash("train", job.seed, job.kind) % 2**32)
    with zero.sharded_loading(job.train):
        policy = load_policy(on_node_for_good(job.model), job.train)
    if job.train.lora:
        add_adapters(policy.model, job.train.lora, stable_hash("lora", job.seed, job.kind) % 2**32)
        log.info("%s: %d of %d parameters are trained", job.kind, *count_parameters(policy.model))
    policy.train()
    engine = zero.start_engine(policy, job.train, job.num_steps)
    collate = Collate(RESPONSES_OF[job.kind], policy.share_prompts, job.pad_token_id)
    task: Task = WRPOTask(job.train, job.num_steps, collate) if isinstance(job.train, WRPOConfig) else SFTTask(collate)
    table = TokenTable(job.scratch, job.tokens, collate.responses)
    checkpoints = CheckpointWriter(job, ranks, attempt, layout(job, ranks))
    worker = Worker(job, ranks, attempt, engine, task, collate, table, device, checkpoints)
    if ranks.rank == 0:
        worker.writer = MetricsWriter(job, resume.history_of(attempt), attempt.working)
    restore(worker)
    return worker


def layout(job: TrainJob, ranks: Ranks) -> dict[str, int]:
    """Return what decides how a checkpoint can be loaded."""
    return {"world_size": ranks.size, "zero_stage": zero_stage(job.train)}


def restore(worker: Worker) -> None:
    """Put engine and generators where the attempt's checkpoint left them; all ranks call it."""
    job, attempt, ranks = worker.job, worker.attempt, worker.ranks
    # Ranks draw other numbers than one another; where the saved ones fit, they take their place.
    seed_everything(stable_hash("train", job.seed, job.kind, attempt.first_step, ranks.rank) % 2**32)
    resume.restore_engine(job, ranks, attempt, worker.engine, layout(job, ranks))
    resume.restore_random(attempt, ranks)


def checkpoint(worker: Worker, done: int, *, in_background: bool) -> None:
    """Store the training state after `done` optimizer steps; all ranks call it. See CheckpointWriter.save."""
    history = worker.writer.history if worker.writer else ""
    worker.checkpoints.save(worker.engine, done, history, in_background=in_background)


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
    row_losses: list[tuple[list[str], torch.Tensor]] = []
    micro_batches = plan.ranks[worker.rank]
    for number, micro in enumerate(micro_batches, start=1):
        rows = worker.table.rows(micro.rows)
        result = worker.task.run(engine, rows, micro, step, worker.device)
        row_losses.append(([row["prompt_id"] for row in rows], result.row_losses))
        for name, value in {"loss": result.loss_sum.detach(), **result.sums}.items():
            sums[name] = sums.get(name, 0.0) + value.double()
        # The sum over the global batch, by its units; DeepSpeed averages over ranks, which is undone here.
        loss = result.loss_sum * (job.train.num_workers / units)
        zero.backward(engine, loss, is_last=number == len(micro_batches))
    means = {name: total / units for name, total in reduced_sums(sums).items()}
    if not math.isfinite(means["loss"]):
        raise StoppedError(_non_finite_message("loss", step, _not_finite(worker.ranks, row_losses)))
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


def _not_finite(ranks: Ranks, row_losses: list[tuple[list[str], torch.Tensor]]) -> list[str]:
    """Return the prompt_ids of all ranks whose loss is not finite.

    Looked at only when the sum is not finite: every look at a number waits for the GPU.
    """
    own = [
        prompt_id
        for prompt_ids, losses in row_losses
        for prompt_id, is_finite in zip(prompt_ids, losses.isfinite().tolist(), strict=True)
        if not is_finite
    ]
    return [prompt_id for part in ranks.gathered(own) for prompt_id in part]


def save_final(worker: Worker) -> list[FileEntry]:
    """Store the trained model and all metrics; return their entries on rank 0, none elsewhere; all ranks call it."""
    from wrpo_ray.train import zero

    job, files = worker.job, []
    model = worker.engine.module.model
    state = zero.whole_state(worker.engine, model)
    done = read_manifest(job.folder) if state is not None else None
    if done is not None:
        # Another driver has finished the step meanwhile; what its manifest lists must stay as it is.
        files = list(done.files)
    elif state is not None and worker.writer is not None:
        files = [worker.writer.close(), *_store_model(worker, state)]
        if worker.writer.tensorboard.is_dir():
            files += replace_folder(worker.writer.tensorboard, job.folder, TENSORBOARD)
    worker.ranks.wait()
    return files


def _store_model(worker: Worker, state: dict[str, torch.Tensor]) -> list[FileEntry]:
    """Store the trained model, and its adapters if it has some; `state` is all of its weights."""
    job, model, working = worker.job, worker.engine.module.model, worker.attempt.working
    if not job.train.lora:
        save_model(model, state, on_node(job.model), working / MODEL)
        return replace_folder(working / MODEL, job.folder, MODEL)
    save_adapter(model, state, job.model.path, working / ADAPTER)
    save_model(model, merged(model, state), on_node(job.model), working / MODEL)
    return [entry for name in (MODEL, ADAPTER) for entry in replace_folder(working / name, job.folder, name)]
