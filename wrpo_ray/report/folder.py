"""A run as the report reads it: state, records, and which data files count, also while steps are under way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wrpo_ray.failures import Failure
from wrpo_ray.run_state import METRICS, RunState, StepState, read_run
from wrpo_ray.run_state.contents import read_contents
from wrpo_ray.storage.location import Location, locate
from wrpo_ray.storage.manifest import FileEntry, Manifest, RunLayout, read_manifest
from wrpo_ray.storage.told import metrics_line, require_start, require_summary

_AT_WORK = ("running", "partly done")


@dataclass(frozen=True)
class StepFacts:
    """One step: its state, its manifest once it is complete, and the Parquet files that count so far."""

    state: StepState
    folder: Location
    manifest: Manifest | None
    data: tuple[FileEntry, ...]

    @property
    def summary(self) -> Mapping[str, Any]:
        """What the step reported; nothing before it is complete."""
        return self.manifest.summary if self.manifest else {}


@dataclass(frozen=True)
class RunFacts:
    """A run. record: its present start as it was stored, or {}. failure: of the last start, when one was noted."""

    folder: Location
    state: RunState
    record: Mapping[str, Any]
    steps: Mapping[str, StepFacts]
    failure: Failure | None = None
    metrics: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The run's name."""
        return self.folder.name

    @property
    def config(self) -> Mapping[str, Any]:
        """The resolved config of the present start, or {}."""
        return self.record.get("config") or {}

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of all sources of the config, in its order."""
        return tuple(source["name"] for source in self.config.get("sources", ()))

    @property
    def manifests(self) -> dict[str, Manifest]:
        """The manifests of the steps that are complete."""
        return {name: step.manifest for name, step in self.steps.items() if step.manifest is not None}

    def summary(self, step: str) -> Mapping[str, Any]:
        """Return what a step reported; nothing when it is not complete or not planned."""
        return self.steps[step].summary if step in self.steps else {}

    def whyless(self, step: str) -> str:
        """Return why a step has nothing to show yet, as the end of a sentence."""
        found = self.steps.get(step)
        if found is None:
            return f"this run has no step {step}" if self.steps else "no start of this run has listed its steps yet"
        if self.failure is not None and self.failure.step == step and found.manifest is None:
            return f"the step {step} failed (see above)"
        said = {
            "to do": "has not begun",
            "running": "is under way",
            "partly done": "was begun and is not done",
            "left out": "was left out with its source",
            "damaged": "is damaged (`wrpo-ray inspect` says how)",
            "complete": "is complete and has none",
        }
        return f"the step {step} {said[found.state.phase]}"


def read_facts(folder: Location) -> RunFacts:
    """Read a run's folder; raises ConfigError when it is none, StorageError when the store cannot be read."""
    state = read_run(folder)
    steps = {step.name: _step(step) for step in state.steps}
    number = state.submission.number if state.submission else None
    record: Mapping[str, Any] = {}
    if number is not None:
        place = RunLayout(folder).submissions / f"{number:06d}.json"
        record = place.read_sealed()
        require_start(record, place)
    metrics = {name: lines for name, step in steps.items() if (lines := _metrics(step))}
    return RunFacts(folder, state, record, steps, state.last_failure, metrics)


def _step(state: StepState) -> StepFacts:
    folder = locate(state.folder)
    if state.phase == "complete":
        manifest = read_manifest(folder)
        if manifest is not None:
            require_summary(manifest, folder)
        files = manifest.files if manifest else ()
    elif state.phase in _AT_WORK:
        contents = read_contents(folder)
        manifest, files = None, tuple(commit.file for commit in (contents.commits or {}).values())
    else:
        return StepFacts(state, folder, None, ())
    data = tuple(entry for entry in files if entry.num_rows is not None and entry.path.startswith("data/"))
    return StepFacts(state, folder, manifest, data)


def _metrics(step: StepFacts) -> list[dict[str, Any]]:
    """Return the lines of a training step, each step once; what is no JSON is left out.

    Raises StorageError for a line that holds something else than metrics.
    """
    if step.state.training.step is None:
        return []
    place = step.folder / METRICS
    try:
        lines = place.read_bytes().decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return []
    found: dict[int, dict[str, Any]] = {}
    for line in lines:
        if (metrics := metrics_line(line, place)) is not None:
            found[metrics["step"]] = metrics
    return [found[at] for at in sorted(found)]
