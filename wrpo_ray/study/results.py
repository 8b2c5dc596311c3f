"""What a study has come to: one row per run, read from the runs' folders alone, and how often each step was made."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wrpo_ray.config import FuseConfig
from wrpo_ray.evaluate.evaluation_file import read_evaluation_file
from wrpo_ray.live.holding import CPU, holdings
from wrpo_ray.planning.against import manifests_of
from wrpo_ray.storage.location import Location
from wrpo_ray.storage.manifest import Manifest, layout_of
from wrpo_ray.study.load import StudyRun
from wrpo_ray.submissions import last_submission

Cell = str | float | int | bool | None
_METRICS = "metrics.jsonl"
# Of the logged steps: a single batch says little.
_LAST_SHARE = 0.1


@dataclass(frozen=True)
class StepUse:
    """One step as a run has it; made_by: the other run that it is read from, None when it is this run's own."""

    name: str
    fingerprint: str
    manifest: Manifest
    folder: Location
    made_by: str | None


@dataclass(frozen=True)
class RunResult:
    """A run of the study: what differs, how far it is, the finished steps, and its row of the table."""

    run: StudyRun
    status: str
    steps: tuple[StepUse, ...]
    row: Mapping[str, Cell]


@dataclass(frozen=True)
class Counter:
    """How often a step was made, and how often a run read it that another one had made."""

    step: str
    fingerprint: str
    made: int
    read: int


def run_result(run: StudyRun, error: str | None) -> RunResult:
    """Return what lies in the run's folder; `error`: why this start could not finish it, if it could not."""
    layout = layout_of(run.config.run.root, run.config.run.name)
    submission = last_submission(layout.submissions)
    if submission is None:
        return RunResult(run, "failed" if error else "not started", (), _head(run, error or "", ()))
    manifests = manifests_of(layout.folder, submission)
    steps = []
    for step in submission["steps"]:
        if (manifest := manifests.get(step["name"])) is not None:
            place = (layout.folder if step["run"] is None else layout.beside(step["run"]).folder) / step["name"]
            name, fingerprint = step["name"], step["fingerprint"]
            steps.append(StepUse(name, fingerprint, manifest, place / fingerprint, step["run"]))
    status = "failed" if error else "complete" if len(steps) == len(submission["steps"]) else "not finished"
    return RunResult(run, status, tuple(steps), _head(run, error or "", steps) | dict(_measured(run, steps)))


def _head(run: StudyRun, error: str, steps: Sequence[StepUse]) -> dict[str, Cell]:
    own = sum(step.made_by is None for step in steps)
    return {"run": run.name, "error": error, "steps_made": own, "steps_read": len(steps) - own}


def _measured(run: StudyRun, steps: Sequence[StepUse]) -> Iterator[tuple[str, Cell]]:
    by_name = {step.name: step for step in steps}
    fuse = by_name["fuse"].manifest.summary if "fuse" in by_name else {}
    yield "num_quadruples", fuse.get("num_quadruples")
    yield from ((f"win_share/{source}", share) for source, share in fuse.get("best_share", {}).items())
    if "wrpo" in by_name:
        yield from _training(by_name["wrpo"].folder / _METRICS)
    if (step := by_name.get("evaluate")) is not None:
        yield from evaluation_cells(read_evaluation_file(step.folder, step.manifest) or step.manifest.summary)
    yield from _hours(run.config, steps)


def _training(place: Location) -> Iterator[tuple[str, Cell]]:
    """Yield the mean of every metric over the last tenth of the logged steps, and the number of steps."""
    from wrpo_ray.train.metrics import read_metrics

    logged = read_metrics(place)
    if not logged:
        return
    last = logged[-max(1, math.ceil(_LAST_SHARE * len(logged))) :]
    yield "num_steps", logged[-1]["step"]
    for name in sorted({name for line in last for name in line if name not in ("step", "num_steps")}):
        values = [line[name] for line in last if isinstance(line.get(name), int | float)]
        if values:
            yield f"train/{name}", sum(values) / len(values)


def evaluation_cells(told: Mapping[str, Any]) -> Iterator[tuple[str, Cell]]:
    """Yield the numbers of an evaluation.json: rewards, win rates, refusals and benchmarks, by model."""
    models = told.get("models") or []
    if isinstance(models, Mapping):
        for name, values in models.items():
            for measure, estimate in values.items():
                yield f"{measure}/{name}", estimate["mean"]
                yield from ((f"{measure}_{end}/{name}", estimate[end]) for end in ("low", "high"))
        return
    for model in models:
        name = model["name"]
        yield from ((f"{key}/{name}", model.get(f"mean_{key}")) for key in ("reward", "tokens"))
        yield from ((f"reward_{end}/{name}", model.get(f"reward_{end}")) for end in ("low", "high"))
    for pair in told.get("pairs") or []:
        of_pair = f"{pair['judged_by']}/{pair['model']}/{pair['baseline']}"
        measures = {"win_rate": "win_rate", "low": "win_rate_low", "high": "win_rate_high"}
        measures["length_controlled_win_rate"] = "length_controlled_win_rate"
        yield from ((f"{column}/{of_pair}", pair.get(key)) for key, column in measures.items())
    for model in (told.get("safety") or {}).get("models", ()):
        yield f"refusal_rate/{model['name']}", model["refusal_rate"]
    for entry in told.get("benchmarks") or []:
        yield f"{entry['task']}/{entry['metric']}/{entry['model']}", entry["value"]


def _hours(config: FuseConfig, steps: Sequence[StepUse]) -> Iterator[tuple[str, Cell]]:
    """Yield accelerator-hours and CPU-hours of the steps that the run made, and of all that it is built on.

    The most that a step can have held: its wall time times all replicas or workers that its config asks for.
    """
    hold = holdings(config)
    hours = {"gpu_hours": 0.0, "cpu_hours": 0.0, "gpu_hours_alone": 0.0, "cpu_hours_alone": 0.0}
    for step in steps:
        holding = hold(step.name)
        if holding is None:
            continue
        replicas = holding.num_workers or holding.most_replicas
        held = step.manifest.seconds * replicas * holding.units / 3600
        unit = "cpu_hours" if holding.accelerator == CPU else "gpu_hours"
        hours[f"{unit}_alone"] += held
        hours[unit] += held if step.made_by is None else 0.0
    yield from hours.items()


def counters(results: Sequence[RunResult]) -> list[Counter]:
    """Return for every finished step how often it was made and read, in the order in which the runs have them."""
    made: dict[tuple[str, str], list[int]] = {}
    for result in results:
        for step in result.steps:
            counts = made.setdefault((step.name, step.fingerprint), [0, 0])
            counts[step.made_by is not None] += 1
    return [Counter(name, fingerprint, *counts) for (name, fingerprint), counts in made.items()]
