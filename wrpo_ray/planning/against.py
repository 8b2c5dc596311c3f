"""Planned against actual: a plan's stages next to the manifests of the steps that a run has finished."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wrpo_ray.config import FuseConfig
from wrpo_ray.errors import ConfigError, WrpoError
from wrpo_ray.planning.plan import RunPlan, plan_run
from wrpo_ray.planning.text import plan_json
from wrpo_ray.planning.units import columns, short, span
from wrpo_ray.storage.location import Location
from wrpo_ray.storage.manifest import Manifest, RunLayout, read_manifest
from wrpo_ray.storage.told import require_start, require_summary
from wrpo_ray.submissions import last_submission

PLAN = "plan"
# With an allocation every source is loaded twice; both loads are parts of the step that is planned.
_FIRST_LOAD = "first-"


@dataclass(frozen=True)
class Compared:
    """One step, planned and done. Seconds; responses (or rows) and tokens drawn; None for what is not known."""

    step: str
    planned_s: float | None
    actual_s: float | None
    planned_responses: float | None = None
    actual_responses: float | None = None
    planned_tokens: float | None = None
    actual_tokens: float | None = None

    @property
    def ratio(self) -> float | None:
        """Actual over planned seconds."""
        if not self.planned_s or self.actual_s is None:
            return None
        return self.actual_s / self.planned_s


def plan_record(config: FuseConfig) -> dict[str, Any]:
    """Return the plan of `config` as JSON values, to be stored with the run when it starts.

    A run does not fail for want of a plan: {"reason": ...} says why there is none.
    """
    try:
        return plan_json(plan_run(config))
    except WrpoError as error:
        return {"reason": error.message}


def compare(stages: Sequence[Mapping[str, Any]], manifests: Mapping[str, Manifest]) -> list[Compared]:
    """Return planned and finished steps, in the plan's order; what was not planned comes last.

    stages: as text.stage_json gives them. manifests: by step.
    """
    planned = [
        _compared(stage, loads_of(stage["step"], manifests) if stage["step"] in manifests else []) for stage in stages
    ]
    known = {name for stage in stages for name in (stage["step"], f"{_FIRST_LOAD}{stage['step']}")}
    others = [
        Compared(name, None, manifest.seconds) for name, manifest in manifests.items() if name not in known
    ]  # fmt: skip
    return [*planned, *others]


def loads_of(step: str, manifests: Mapping[str, Manifest]) -> list[Manifest]:
    """Return the manifests that belong to a planned step; with an allocation there are two of a source's."""
    return [manifests[name] for name in (f"{_FIRST_LOAD}{step}", step) if name in manifests]


def _compared(stage: Mapping[str, Any], loads: Sequence[Manifest]) -> Compared:
    def counted(*names: str) -> float | None:
        found = [next((load.summary[name] for name in names if name in load.summary), None) for load in loads]
        known = [float(number) for number in found if number is not None]
        return sum(known) if known else None

    return Compared(
        step=stage["step"],
        planned_s=stage["seconds"],
        actual_s=sum(load.seconds for load in loads) if loads else None,
        planned_responses=stage["responses"],
        actual_responses=counted("num_responses", "num_rows"),
        planned_tokens=stage["output_tokens"] or None,
        actual_tokens=counted("num_tokens"),
    )


def unseen_time(epoch: int | None) -> str:
    """Return the sentence on time that no manifest holds; nothing for a run that was started once.

    epoch: of the run's last start. An earlier one may have been cut off in the middle of a step, and could not note it.
    """
    if epoch is None or epoch < 2:
        return ""
    return (
        f"The run was started {epoch} times: of a step that one start left unfinished, the time counts of the start"
        " that finished it, so it may have taken longer."
    )


def compared_text(rows: Sequence[Compared]) -> str:
    """Return the comparison as a table, and what to plan with next time."""
    heading = ("step", "planned", "actual", "actual/planned", "responses planned", "actual", "tokens planned", "actual")
    table = columns([heading, *(_cells(row) for row in rows)])
    drawn = [row for row in rows if row.actual_tokens and row.actual_responses]
    if not drawn:
        return table
    mean = sum(row.actual_tokens or 0 for row in drawn) / sum(row.actual_responses or 0 for row in drawn)
    return f"{table}\n\nmean tokens per response, actual: {mean:.1f} (planning.mean_response_tokens)"


def _cells(row: Compared) -> tuple[str, ...]:
    def shown(number: float | None) -> str:
        return "" if number is None else short(number) or "0"

    return (
        row.step,
        "" if row.planned_s is None else span(row.planned_s),
        "" if row.actual_s is None else span(row.actual_s),
        "" if row.ratio is None else f"{row.ratio:.2f}",
        shown(row.planned_responses),
        shown(row.actual_responses),
        shown(row.planned_tokens),
        shown(row.actual_tokens),
    )


def against_run(plan: RunPlan, folder: Location) -> str:
    """Return the comparison with the run in `folder`: of the plan that it stored when it started, else of `plan`.

    Raises ConfigError when there is no run, StorageError when its records are damaged.
    """
    submission = last_submission(RunLayout(folder).submissions)
    if submission is None:
        raise ConfigError(
            f"{folder} is no run: it has no submissions/ folder", code="WRPO-C040",
            help="name the run's own folder, which is run.root/run.name of its config",
        )  # fmt: skip
    require_start(submission, RunLayout(folder).submissions)
    stored = submission.get(PLAN) or {}
    title = "plan of this config" if "stages" not in stored else "plan that the run stored when it started"
    stages = stored.get("stages") or json.loads(json.dumps(plan_json(plan)))["stages"]
    text = f"{title}, against {folder}\n\n{compared_text(compare(stages, manifests_of(folder, submission)))}"
    return f"{text}\n{unseen}" if (unseen := unseen_time(submission.get("epoch"))) else text


def manifests_of(folder: Location, submission: Mapping[str, Any]) -> dict[str, Manifest]:
    """Return the manifests of the finished steps of a run, by step."""
    steps = submission["steps"]
    layout = RunLayout(
        folder, {f"{step['name']}/{step['fingerprint']}": run for step in steps if (run := step.get("run"))}
    )
    found: dict[str, Manifest] = {}
    for step in steps:
        place = layout.step_folder(step["name"], step["fingerprint"])
        if (manifest := read_manifest(place)) is not None:
            require_summary(manifest, place)
            found[step["name"]] = manifest
    return found
