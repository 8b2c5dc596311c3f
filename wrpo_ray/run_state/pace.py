"""How fast an unfinished step goes and how long it still takes, by the clock of the store and nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from wrpo_ray.run_state.contents import NUM_THREADS, Contents, commit_place
from wrpo_ray.storage.location import Location

METRICS, PROGRESS = "metrics.jsonl", "progress.json"
# The pace of the last commits is what the next ones will come at; engines that start or end slow down others.
_NUM_LAST_COMMITS = 16
_CHECKPOINT = re.compile(r"scratch/(?:.*/)?step-(\d{8,})-([0-9a-z]+)/checkpoint\.json")


# Of a file that is no JSON, or holds something else: nothing is known then. 1e999 is no whole number.
_NO_NUMBER = (ValueError, KeyError, TypeError, OverflowError, RecursionError)


@dataclass(frozen=True)
class Pace:
    """rate: rows per second of a ledger step. seconds_left: None when unknown, and `unknown` then says why."""

    rate: float | None = None
    seconds_left: float | None = None
    unknown: str | None = None


@dataclass(frozen=True)
class Training:
    """Optimizer steps: done (by the metrics file), and all of the run when the step has noted them."""

    step: int | None = None
    num_steps: int | None = None


def ledger_pace(contents: Contents) -> Pace:
    """Return the pace of a step that is cut into shards, from the store's times of its last commits."""
    commits = contents.commits or {}
    if contents.plan is None:
        return Pace(unknown="its plan is not written yet")
    if len(commits) < 2:
        return Pace(unknown=f"{len(commits)} of {contents.plan.num_shards} shards are done, two are needed")
    times = sorted(_times(contents.folder, list(commits)))[-_NUM_LAST_COMMITS:]
    seconds = times[-1][0] - times[0][0]
    later = [commits[name] for _, name in times[1:]]
    if seconds <= 0:
        return Pace(unknown="all shards so far were done at the same moment")
    items = sum(commit.num_items for commit in later)
    left = contents.plan.num_items - sum(commit.num_items for commit in commits.values())
    return Pace(sum(commit.file.num_rows or 0 for commit in later) / seconds, max(0, left) * seconds / max(1, items))


def _times(folder: Location, shard_names: Sequence[str]) -> list[tuple[float, str]]:
    def look(name: str) -> tuple[float, str] | None:
        found = commit_place(folder, name).stat()
        return (found.modified, name) if found else None

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        return [pair for pair in pool.map(look, shard_names) if pair is not None]


def training_progress(contents: Contents) -> Training:
    """Return how far training is; nothing is known of a step that does not train."""
    step = _last_step(contents) if METRICS in contents.names else None
    return Training(step, _noted_steps(contents) if PROGRESS in contents.names else None)


def _last_step(contents: Contents) -> int | None:
    lines = (contents.folder / METRICS).read_bytes().splitlines(keepends=True)
    for line in reversed(lines):
        # The last line may be half written; a damaged line says nothing.
        try:
            return int(json.loads(line)["step"])
        except _NO_NUMBER:
            continue
    return None


def _noted_steps(contents: Contents) -> int | None:
    try:
        return int(json.loads((contents.folder / PROGRESS).read_bytes())["num_steps"])
    except _NO_NUMBER:
        return None


def training_pace(contents: Contents, training: Training) -> Pace:
    """Return how long training still takes, from the last two checkpoints of the present attempt."""
    if training.num_steps is None or training.step is None:
        return Pace(unknown="it has not noted how many steps there are" if training.step else "no step is logged yet")
    if training.step >= training.num_steps:
        return Pace(unknown="all steps are done, its model is being written")
    found = sorted(
        (int(match[1]), match[2], match[0]) for name in contents.names if (match := _CHECKPOINT.fullmatch(name))
    )
    if len(found) < 2 or found[-1][1] != found[-2][1]:
        return Pace(unknown="two checkpoints of the present attempt are needed")
    before, last = ((contents.folder / path).stat() for _, _, path in found[-2:])
    if before is None or last is None or last.modified <= before.modified:
        return Pace(unknown="the last two checkpoints tell no time")
    seconds_per_step = (last.modified - before.modified) / (found[-1][0] - found[-2][0])
    return Pace(seconds_left=(training.num_steps - training.step) * seconds_per_step)
