"""Finished steps of other runs, read where they lie: the runs of a sweep make what they share once.

A run names the runs that it reuses (`run.reuse`); nothing is guessed. A step is taken from one of them when it is
complete there under the same fingerprint and was made from the very files that this run reads as its inputs; else this
run makes it itself. Nothing is ever written there, and what is read is verified by the manifest that lies there.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from wrpo_ray.config import RunConfig
from wrpo_ray.errors import ConfigError, Problem
from wrpo_ray.steps import Step
from wrpo_ray.storage.location import Location, locate
from wrpo_ray.storage.manifest import Manifest, RunLayout, content_digest, read_manifest

log = logging.getLogger(__name__)


def require_runs(run: RunConfig) -> None:
    """Raise ConfigError unless each run in `run.reuse` is there, is named once, and is another than this one."""
    problems = [_problem(run, name) for name in dict.fromkeys(run.reuse)]
    if found := [problem for problem in problems if problem is not None]:
        raise ConfigError.of(f"run {run.name} cannot start", found)


def _problem(run: RunConfig, name: str) -> Problem | None:
    if name == run.name:
        return Problem("run.reuse", name, "a run reads its own steps anyway", "take it out", "WRPO-C034")
    if run.reuse.count(name) > 1:
        return Problem("run.reuse", name, "named twice", "name it once", "WRPO-C034")
    root = locate(run.root)
    if RunLayout(root / name).submissions.walk():
        return None
    rule = f"no run below {root} has this name; there are: {', '.join(existing_runs(root)) or 'none'}"
    return Problem("run.reuse", name, rule, "correct the name, or take it out", "WRPO-C034")


def existing_runs(root: Location) -> list[str]:
    """Return the names of the runs below `root` that have been started."""
    marker = RunLayout(root).submissions.name
    if root.local_path is not None:
        return sorted(path.parent.name for path in root.local_path.glob(f"*/{marker}"))
    paths = (place.relative_to(root).split("/") for place in root.walk())
    return sorted({path[0] for path in paths if path[1:2] == [marker]})


def run_to_reuse(step: Step, layout: RunLayout, runs: Sequence[str]) -> str | None:
    """Return the first of `runs` that has made `step` from the inputs that `layout` names, or None.

    None too when this run has made the step itself: what it has begun to read stays what it reads.
    """
    if read_manifest(step.folder(layout)) is not None:
        return None
    for run in runs:
        manifest = read_manifest(step.folder(layout.beside(run)))
        if manifest is not None and _made_from_ours(step, layout, manifest, run):
            return run
    return None


def _made_from_ours(step: Step, layout: RunLayout, manifest: Manifest, run: str) -> bool:
    """Engines on GPUs may give other bytes for one fingerprint; results of two versions of an input are never mixed."""
    inputs = {given.name: read_manifest(given.folder(layout)) for given in step.inputs}
    other = [
        name
        for name, found in inputs.items()
        if found is None or content_digest(found) != manifest.input_contents.get(name)
    ]
    if other:
        log.info("%s is not taken from run %s: it was made from other files of %s", step.name, run, ", ".join(other))
    return not other
