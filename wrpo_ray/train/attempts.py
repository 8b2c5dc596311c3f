"""Every start of a worker group, written down: where it began, what is done again, which checkpoints could not be used.

<scratch>/attempts/<attempt>.json
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

from wrpo_ray.storage.location import Location
from wrpo_ray.train.checkpoints import Opened, Skipped
from wrpo_ray.train.job import CHECKPOINTS, TrainJob
from wrpo_ray.train.metrics import METRICS_FILE, read_metrics

log = logging.getLogger(__name__)

ATTEMPTS = "attempts"


def record_attempt(job: TrainJob, name: str, first_step: int, opened: Opened) -> None:
    """Write down where an attempt starts and what that cost, for the driver's log and the step's report."""
    logged = read_metrics(job.folder / METRICS_FILE, first_step)
    record = {
        "kind": job.kind,
        "first_step": first_step,
        "checkpoint": opened.checkpoint.folder.name if opened.checkpoint else None,
        "num_steps_redone": logged[-1]["step"] - first_step if logged else 0,
        "num_workers": job.train.num_workers,
        "checkpoints_skipped": [dataclasses.asdict(skipped) for skipped in opened.skipped],
        "other_trainings": _other_trainings(job),
    }
    (job.scratch / ATTEMPTS / f"{name}.json").write_json(record)
    tell_attempt(record)


def _other_trainings(job: TrainJob) -> list[str]:
    """Return the digests of trainings of other rows or settings that left checkpoints here."""
    root = job.scratch / CHECKPOINTS
    digests = {place.relative_to(root).partition("/")[0] for place in root.walk()}
    return sorted(digests - {job.digest})


def tell_attempt(record: Mapping[str, Any]) -> None:
    """Log where an attempt starts, loudly when it starts over."""
    kind, redone = record["kind"], record["num_steps_redone"]
    for skipped in record["checkpoints_skipped"]:
        log.warning("%s: checkpoint %s is skipped: %s", kind, skipped["name"], skipped["reason"])
    if record["checkpoint"] is not None:
        log.info(
            "%s: goes on after step %d, from %s; %d steps are done again",
            kind, record["first_step"], record["checkpoint"], redone,
        )  # fmt: skip
    elif record["checkpoints_skipped"] or record["other_trainings"] or redone:
        log.error(
            "%s: STARTS AGAIN AT STEP 0: no checkpoint can be used (%d are damaged, those of %d other trainings do not"
            " fit); %d steps are done again", kind, len(record["checkpoints_skipped"]), len(record["other_trainings"]),
            redone,
        )  # fmt: skip


class AttemptNews:
    """Tells the driver's log of every attempt once: what workers log stays on their nodes."""

    def __init__(self, scratch: Location) -> None:
        self._folder = scratch / ATTEMPTS
        self._told = {place.name for place in self._folder.walk()}

    def tell(self) -> None:
        """Log the attempts that have begun since the last call."""
        for place in self._folder.walk():
            if place.name not in self._told:
                self._told.add(place.name)
                tell_attempt(place.read_json())


def attempts_summary(scratch: Location) -> dict[str, Any]:
    """Return how often training was started, what was done again, and which checkpoints could not be used, and why."""
    records = [place.read_json() for place in (scratch / ATTEMPTS).walk() if place.name.endswith(".json")]
    records.sort(key=lambda record: record["first_step"])
    skipped = {entry["name"]: entry["reason"] for record in records for entry in record["checkpoints_skipped"]}
    return {
        "num_attempts": len(records),
        "resumed_after_steps": [record["first_step"] for record in records if record["first_step"]],
        "num_steps_redone": sum(record["num_steps_redone"] for record in records),
        "checkpoints_skipped": [dataclasses.asdict(Skipped(*item)) for item in sorted(skipped.items())],
    }
