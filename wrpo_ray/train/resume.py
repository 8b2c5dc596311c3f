"""How a worker group finds its place at the start, keeps it from time to time, and says what it did."""

from __future__ import annotations

import logging
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wrpo_ray.errors import WrpoError
from wrpo_ray.storage.location import Location
from wrpo_ray.storage.manifest import FileEntry
from wrpo_ray.storage.stores import local_errors
from wrpo_ray.train.attempts import record_attempt
from wrpo_ray.train.checkpoints import (
    Checkpoint,
    Opened,
    checkpoint_name,
    commit_checkpoint,
    open_newest,
    prune,
    remove_incomplete,
)
from wrpo_ray.train.files import node_root, remove_other_attempts, upload_folder, working_folder
from wrpo_ray.train.job import TrainJob
from wrpo_ray.train.metrics import METRICS_FILE
from wrpo_ray.train.random_state import load_random_state, save_random_state
from wrpo_ray.train.ranks import Ranks
from wrpo_ray.train.snapshot import Held, held
from wrpo_ray.train.universal import UNIVERSAL, convert, fits, require_convertible

log = logging.getLogger(__name__)

ENGINE = "engine"


@dataclass(frozen=True)
class Attempt:
    """One start of the worker group: its own name, its folder on this node, and the checkpoint that it goes on from."""

    name: str
    working: Path
    opened: Opened

    @property
    def first_step(self) -> int:
        """Optimizer steps that are done already."""
        return self.opened.checkpoint.step if self.opened.checkpoint else 0


def begin(job: TrainJob, ranks: Ranks) -> Attempt:
    """Clear up after dead attempts and find the newest checkpoint that verifies; all ranks call it."""
    name = ranks.first(uuid.uuid4().hex[:12])
    working = working_folder(job.scratch, job.out, name)
    if ranks.local_rank == 0:
        remove_other_attempts(working)
    if ranks.rank == 0:
        for incomplete in remove_incomplete(job.checkpoints):
            log.info("checkpoint %s was never finished and is removed", incomplete)
    ranks.wait()
    working.mkdir(parents=True, exist_ok=True)
    attempt = Attempt(name, working, open_newest(job.checkpoints, ranks, working / "checkpoint"))
    if ranks.rank == 0:
        record_attempt(job, name, attempt.first_step, attempt.opened)
    return attempt


def history_of(attempt: Attempt) -> str:
    """Return the metrics file as it was when the checkpoint was written."""
    return (attempt.opened.path / METRICS_FILE).read_text(encoding="utf-8") if attempt.opened.path else ""


def trainer_state(job: TrainJob, step: int, layout: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a checkpoint says about itself besides its step."""
    from wrpo_ray.versions import installed

    return {
        "kind": job.kind,
        "digest": job.digest,
        "epoch": step // job.steps_per_epoch,
        "step_in_epoch": step % job.steps_per_epoch,
        "seed": job.seed,
        "tokens_sha256": job.tokens.sha256,
        "num_steps": job.num_steps,
        "versions": installed(),
        **layout,
    }


def restore_engine(job: TrainJob, ranks: Ranks, attempt: Attempt, engine: Any, layout: Mapping[str, Any]) -> None:
    """Load the attempt's checkpoint into the DeepSpeed engine; all ranks call it.

    Raises ConfigError when the checkpoint cannot be read in this ZeRO stage.
    """
    from wrpo_ray.train import zero

    checkpoint, path = attempt.opened.checkpoint, attempt.opened.path
    if checkpoint is None or path is None:
        return
    if fits(checkpoint.state, layout):
        zero.load_checkpoint(engine, path, ENGINE)
    else:
        require_convertible(checkpoint.state, layout)
        log.info("checkpoint of %s is converted for %s", dict(checkpoint.state), dict(layout))
        folder = attempt.working / UNIVERSAL
        # Once per file system: for all nodes where they share it.
        if (ranks.rank if job.scratch.local_path else ranks.local_rank) == 0:
            convert(path / ENGINE, folder, layout["zero_stage"])
        ranks.wait()
        zero.load_universal(engine, attempt.working, UNIVERSAL)
        ranks.wait()
        shutil.rmtree(folder, ignore_errors=True)
    if engine.global_steps != attempt.first_step:
        raise WrpoError(
            f"DeepSpeed is at step {engine.global_steps}, its checkpoint at {attempt.first_step}", code="WRPO-B003"
        )


def restore_random(attempt: Attempt, ranks: Ranks) -> None:
    """Put this rank's generators where they were; with another number of ranks none of the states is its own."""
    if attempt.opened.path is not None and _same_ranks(attempt.opened.checkpoint, ranks):
        load_random_state(attempt.opened.path / _random_file(ranks.rank))


def _same_ranks(checkpoint: Checkpoint | None, ranks: Ranks) -> bool:
    return checkpoint is not None and checkpoint.state["world_size"] == ranks.size


def _random_file(rank: int) -> str:
    return f"random-rank-{rank:05d}.pt"


@dataclass(frozen=True)
class Snapshot:
    """This rank's share of a checkpoint: in a folder of its own, but for what is still held in memory."""

    folder: Path
    held: Held | None


def take(ranks: Ranks, attempt: Attempt, engine: Any, history: str, *, in_memory: bool) -> Snapshot:
    """Take down where training stands; all ranks call it, and may go on training when it returns.

    in_memory: make a copy of DeepSpeed's state and leave it to `store` to write it.
    """
    from wrpo_ray.train import zero

    folder = attempt.working / f"rank-{ranks.rank:05d}"
    folder.mkdir(parents=True)
    save_random_state(folder / _random_file(ranks.rank))
    if ranks.rank == 0:
        (folder / METRICS_FILE).write_text(history, encoding="utf-8")
    if not in_memory:
        zero.save_checkpoint(engine, folder, ENGINE)
        return Snapshot(folder, None)
    with held(engine) as copies:
        zero.save_checkpoint(engine, folder, ENGINE)
    return Snapshot(folder, copies)


def store(job: TrainJob, attempt: Attempt, step: int, snapshot: Snapshot) -> list[FileEntry]:
    """Bring this rank's share of the checkpoint after `step` to the run's store and return its files.

    Talks to no other rank. Raises StorageError.
    """
    if snapshot.held is not None:
        with local_errors("write", snapshot.folder):
            snapshot.held.write()
    entries = upload_folder(snapshot.folder, _folder(job, attempt, step))
    shutil.rmtree(snapshot.folder)
    return entries


def commit(job: TrainJob, attempt: Attempt, step: int, files: Sequence[FileEntry], layout: Mapping[str, Any]) -> None:
    """Mark the checkpoint after `step` as complete and prune older ones; one rank calls it, after all have stored.

    layout: world_size and zero_stage, which decide how it can be loaded. Raises StorageError.
    """
    folder = _folder(job, attempt, step)
    commit_checkpoint(folder, step, files, trainer_state(job, step, layout))
    prune(job.checkpoints, job.train.keep_checkpoints)
    log.info("%s: checkpoint after step %d: %s", job.kind, step, folder.name)


def _folder(job: TrainJob, attempt: Attempt, step: int) -> Location:
    return job.checkpoints / checkpoint_name(step, attempt.name)


def end(job: TrainJob, attempt: Attempt, ranks: Ranks) -> None:
    """Remove what this attempt kept on its nodes; all ranks call it."""
    ranks.wait()
    if ranks.local_rank == 0:
        shutil.rmtree(attempt.working, ignore_errors=True)
        shutil.rmtree(node_root(job.out), ignore_errors=True)
