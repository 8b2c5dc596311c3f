"""The driver's side of training: tokenise, start Ray Train, follow, sum up."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from wrpo_ray.chat import ChatTokenizer
from wrpo_ray.config import FuseConfig, ModelFiles, TrainConfig
from wrpo_ray.errors import ModelError
from wrpo_ray.models import is_local, tokenizer_of
from wrpo_ray.objectives import needs_reference
from wrpo_ray.schema import Quadruple, ReferenceLogps, SFTExample
from wrpo_ray.storage import read_rows
from wrpo_ray.train.job import Kind, TrainJob
from wrpo_ray.train.loop import train_worker
from wrpo_ray.train.metrics import METRICS_FILE, followed, read_metrics
from wrpo_ray.train.reference import check_reference, reference_worker
from wrpo_ray.train.tokens import (
    QUADRUPLE_RESPONSES,
    SFT_RESPONSES,
    TokenCounts,
    TokenRow,
    join_reference,
    tokenise,
    write_tokens,
)

_STATE_FOLDER = "ray_train"


def run_sft(config: FuseConfig, model_path: str, examples: Path, out: Path) -> dict[str, Any]:
    """Fine-tune the model at `model_path` on the SFTExample rows of a finished step; return counts and the last loss.

    Writes model/ and metrics.jsonl below `out`, and Ray Train's working state to ray_train/.
    """
    started = time.monotonic()
    model = model_files(config, model_path)
    chat = ChatTokenizer(tokenizer_of(model))
    rows, counts = tokenise(read_rows(examples, SFTExample), SFT_RESPONSES, chat, config.sft)
    job = prepare(config, "sft", config.sft, model, chat, rows, SFT_RESPONSES, out)
    return summarise(fit(job), counts, job, started)


def run_wrpo(config: FuseConfig, model_path: str, quadruples: Path, reference: Path, out: Path) -> dict[str, Any]:
    """Optimise preferences from Quadruple rows and their ReferenceLogps; writes and returns as run_sft.

    Raises DataError when a row has no reference log-probs.
    """
    started = time.monotonic()
    model = model_files(config, model_path)
    chat = ChatTokenizer(tokenizer_of(model))
    rows, counts = tokenise(read_rows(quadruples, Quadruple), QUADRUPLE_RESPONSES, chat, config.wrpo)
    if needs_reference(config.wrpo):
        rows = join_reference(rows, read_rows(reference, ReferenceLogps))
    job = prepare(config, "wrpo", config.wrpo, model, chat, rows, QUADRUPLE_RESPONSES, out)
    return summarise(fit(job), counts, job, started)


def run_reference(config: FuseConfig, model_path: str, quadruples: Path, out: Path) -> dict[str, Any]:
    """Compute the log-probs of all responses under the frozen model at `model_path`, once.

    Writes ReferenceLogps rows to data/train-<rank>-of-<ranks>.parquet below `out`. Raises DataError, naming up to ten
    prompt_ids, when a row is missing or not finite.
    """
    started = time.monotonic()
    model = model_files(config, model_path)
    chat = ChatTokenizer(tokenizer_of(model))
    rows, counts = tokenise(read_rows(quadruples, Quadruple), QUADRUPLE_RESPONSES, chat, config.wrpo)
    job = prepare(config, "reference", config.wrpo, model, chat, rows, QUADRUPLE_RESPONSES, out)
    # An attempt with another number of workers names its files otherwise; none of it may stay.
    shutil.rmtree(out / "data", ignore_errors=True)
    fit_workers(reference_worker, job)
    check_reference(job, [row["prompt_id"] for row in rows])
    return {**dataclasses.asdict(counts), "seconds": round(time.monotonic() - started, 3)}


def model_files(config: FuseConfig, model_path: str) -> ModelFiles:
    """Return the model at `model_path`, absolute; revision and chat template belong to the target's own path."""
    target = config.target
    own = model_path == target.path
    path = str(Path(model_path).expanduser().resolve()) if is_local(model_path) else model_path
    return ModelFiles(
        path=path,
        revision=target.revision if own else None,
        # The code of a trained model is the one that came with the target.
        trust_remote_code=target.trust_remote_code,
        chat_template=str(Path(target.chat_template).resolve()) if own and target.chat_template else None,
    )


def prepare(
    config: FuseConfig, kind: Kind, train: TrainConfig, model: ModelFiles, chat: ChatTokenizer,
    rows: Sequence[TokenRow], responses: Sequence[str], out: Path,
) -> TrainJob:  # fmt: skip
    """Write the tokenised rows and return the job; its paths are absolute because workers change their folder."""
    tokens = out.resolve() / _STATE_FOLDER / "tokens.parquet"
    write_tokens(tokens, rows, responses)
    return TrainJob(
        kind=kind, run_name=config.run.name, seed=config.run.seed, train=train, model=model, tokens=str(tokens),
        num_rows=len(rows), pad_token_id=chat.pad_token_id, out=str(out.resolve()), tracking=config.tracking,
    )  # fmt: skip


def fit(job: TrainJob) -> dict[str, Any]:
    """Run the job's training workers, showing progress, and return the last step's metrics.

    Raises ModelError when the training met a loss or gradient that is not finite.
    """
    with followed(Path(job.out) / METRICS_FILE, job.kind, job.num_steps):
        outcome = fit_workers(train_worker, job)
    if "error" in outcome:
        raise ModelError(f"{job.kind}: {outcome['error']}")
    return outcome["metrics"] or read_metrics(Path(job.out) / METRICS_FILE)[-1]


def fit_workers(worker: Callable[[dict[str, Any]], dict[str, Any]], job: TrainJob) -> dict[str, Any]:
    """Run `worker` on all ranks of `job` under Ray Train and return what rank 0 returned."""
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    train = job.train
    on_gpu = train.num_gpus_per_worker > 0
    resources = {"CPU": train.num_cpus_per_worker, **({"GPU": 1.0} if on_gpu else {})}
    trainer = TorchTrainer(
        worker,
        train_loop_config=job.model_dump(mode="json"),
        torch_config=TorchConfig(backend="nccl" if on_gpu else "gloo"),
        scaling_config=ScalingConfig(num_workers=train.num_workers, use_gpu=on_gpu, resources_per_worker=resources),
        run_config=RunConfig(
            name=job.ray_train_name,
            storage_path=str(Path(job.out) / _STATE_FOLDER),
            failure_config=FailureConfig(max_failures=train.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    )
    # What rank 0 returned: the workers of this package return a dictionary.
    return cast(dict[str, Any], trainer.fit().return_value)


def summarise(metrics: dict[str, Any], counts: TokenCounts, job: TrainJob, started: float) -> dict[str, Any]:
    """Return the counts of a training step's manifest; `started` is the driver's monotonic clock at its start."""
    return {
        **dataclasses.asdict(counts),
        "num_steps": job.num_steps,
        "loss": metrics["loss"],
        "grad_norm": metrics["grad_norm"],
        **({"rewards/accuracies": metrics["rewards/accuracies"]} if "rewards/accuracies" in metrics else {}),
        "seconds": round(time.monotonic() - started, 3),
    }
