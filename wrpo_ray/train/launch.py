"""The driver's side of training: have rows tokenised, start Ray Train, follow, sum up."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wrpo_ray.config import FuseConfig, ModelFiles
from wrpo_ray.errors import ModelError
from wrpo_ray.model_paths import is_local
from wrpo_ray.objectives import needs_reference
from wrpo_ray.steps import StepResult
from wrpo_ray.storage.ledger import pending
from wrpo_ray.storage.location import Location, locate
from wrpo_ray.storage.manifest import FileEntry, require_manifest
from wrpo_ray.train.attempts import AttemptNews, attempts_summary
from wrpo_ray.train.fit import fit_workers
from wrpo_ray.train.job import SCRATCH, Kind, TrainJob
from wrpo_ray.train.loop import train_worker
from wrpo_ray.train.metrics import METRICS_FILE, followed, read_metrics
from wrpo_ray.train.one_task import in_one_task
from wrpo_ray.train.preparation import Preparation, Prepared, prepare_tokens
from wrpo_ray.train.reference import (
    finish_reference,
    forget_not_finite,
    forget_plan_by_ids,
    reference_shards,
    reference_worker,
)
from wrpo_ray.train.sampler_reference import differences, read_check, require_accepted, require_close
from wrpo_ray.train.tokens import TokenCounts


def run_sft(config: FuseConfig, model_path: str, examples: Location, out: Location) -> StepResult:
    """Fine-tune the model at `model_path` on the SFTExample rows of a finished step.

    Writes model/ and metrics.jsonl below `out`, and working state (tokens, checkpoints) to scratch/. Goes on from the
    newest checkpoint there that verifies. Raises ModelError when loss or gradient is not finite, or workers keep dying.
    """
    started = time.monotonic()
    job, prepared = prepare(config, "sft", model_path, examples, out)
    return trained(job, fit(job), prepared.tally.counts(), started)


def run_wrpo(
    config: FuseConfig, model_path: str, quadruples: Location, reference: Location, out: Location,
    drawn: Location | None = None,
) -> StepResult:  # fmt: skip
    """Optimise preferences from Quadruple rows and their ReferenceLogps; writes and returns as run_sft.

    drawn: as run_reference was given it. Raises DataError when a row has no reference log-probs, ModelError when those
    of the sampler are not as close as the config asks for now.
    """
    started = time.monotonic()
    check = require_manifest(reference).summary.get("sampler", {}).get("check") if drawn else None
    if check:
        require_accepted(check, config.wrpo.reference_check_tolerance)
    joined = reference if needs_reference(config.wrpo) else None
    job, prepared = prepare(config, "wrpo", model_path, quadruples, out, drawn, joined)
    return trained(job, fit(job), prepared.tally.counts(), started)


def run_reference(
    config: FuseConfig, model_path: str, quadruples: Location, out: Location, drawn: Location | None = None
) -> StepResult:
    """Compute the log-probs of all responses under the frozen model at `model_path`, once.

    drawn: finished sampling step whose log-probs (ResponseWithLogps) are taken for y_wt and y_l where they hold.
    Writes ReferenceLogps rows below data/, shard by shard: what is committed already is not computed again. Raises
    DataError, naming up to ten prompt_ids, when log-probs are not finite, and ModelError when those of the sampler are
    too far from our own on the rows that are compared.
    """
    started = time.monotonic()
    job, prepared = prepare(config, "reference", model_path, quadruples, out, drawn)
    sampler = prepared.sampler
    forget_plan_by_ids(job, prepared.ids_digest)
    shards = reference_shards(job, prepared.ids_digest)
    forget_not_finite(job)
    if pending(job.folder, shards) or (sampler and read_check(job.scratch) is None):
        fit_workers(reference_worker, job)
    told: dict[str, Any] = {}
    if sampler:
        compared = read_check(job.scratch) or []
        require_close(compared, config.wrpo.reference_check_tolerance)
        told = {"sampler": dataclasses.asdict(sampler) | {"check": differences(compared)}}
    finished = finish_reference(job, shards)
    seconds = round(time.monotonic() - started, 3)
    return StepResult(finished.files, {**dataclasses.asdict(prepared.tally.counts()), **told, "seconds": seconds})


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
        code_sha256=target.code_sha256,
        chat_template=str(locate(target.chat_template)) if own and target.chat_template else None,
    )


def prepare(
    config: FuseConfig, kind: Kind, model_path: str, rows: Location, out: Location,
    drawn: Location | None = None, reference: Location | None = None,
) -> tuple[TrainJob, Prepared]:  # fmt: skip
    """Have the rows tokenised below `out` and return the job; raises DataError when no row is left.

    rows, drawn, reference: see Preparation. It is done on a node: the driver's may be a small one.
    """
    train = config.sft if kind == "sft" else config.wrpo
    given = Preparation(kind, train, model_files(config, model_path), rows, out / SCRATCH, drawn, reference)
    # Out of what the step was given for its first worker, which starts afterwards: there is room at once, and nobody
    # else's CPU is taken.
    num_cpus = min(1.0, train.num_cpus_per_worker)
    prepared = in_one_task(prepare_tokens, given, given.folder, num_cpus, "the tokens of training")
    job = TrainJob(
        kind=kind, run_name=config.run.name, seed=config.run.seed, train=train, model=given.model,
        tokens=prepared.told(train), num_rows=prepared.tally.num_kept, pad_token_id=prepared.pad_token_id,
        out=str(out), tracking=config.tracking,
    )  # fmt: skip
    return job, prepared


def fit(job: TrainJob) -> dict[str, Any]:
    """Run the job's training workers, showing progress; return the last step's metrics and the files made.

    Raises ModelError when the training met a loss or gradient that is not finite.
    """
    place = job.folder / METRICS_FILE
    # For `wrpo-ray status`, which reads nothing but the folder.
    (job.folder / "progress.json").write_json({"num_steps": job.num_steps})
    with followed(place, job.kind, job.num_steps, AttemptNews(job.scratch).tell):
        outcome = fit_workers(train_worker, job)
    if "error" in outcome:
        raise ModelError(
            f"{job.kind}: {outcome['error']}", code="WRPO-T004",
            help="look at these rows; a lower `learning_rate` or `precision: fp32` keeps numbers in range",
        )  # fmt: skip
    return {**outcome, "metrics": outcome["metrics"] or read_metrics(place)[-1]}


def trained(job: TrainJob, outcome: Mapping[str, Any], counts: TokenCounts, started: float) -> StepResult:
    """Return the files and counts of a training step; `started` is the driver's monotonic clock at its start."""
    metrics = outcome["metrics"]
    accuracies = {name: metrics[name] for name in ("rewards/accuracies",) if name in metrics}
    return StepResult(
        tuple(FileEntry(**entry) for entry in outcome["files"]),
        {
            **dataclasses.asdict(counts),
            "num_steps": job.num_steps,
            "loss": metrics["loss"],
            "grad_norm": metrics["grad_norm"],
            "share_prompts": outcome["share_prompts"],
            "num_trained_parameters": outcome["num_trained_parameters"],
            **accuracies,
            **attempts_summary(job.scratch),
            "seconds": round(time.monotonic() - started, 3),
        },
    )
