"""A run is a list of steps; a step that is complete under the same fingerprint is not run again.

A fingerprint covers what changes the result (parameters, model files, fingerprints of the inputs) and nothing else:
no paths, no replicas, no log level.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from wrpo_ray.claims import Claim
from wrpo_ray.errors import StorageError
from wrpo_ray.events import StepBegan, StepEnded, StepFound, emit, within
from wrpo_ray.storage.location import Location
from wrpo_ray.storage.manifest import FileEntry, Manifest, RunLayout, content_digest, create_manifest, read_manifest

log = logging.getLogger(__name__)

# Raise it when a change of the code changes results: what older code made is then made again.
RESULT_VERSION = 4


@dataclass(frozen=True)
class StepResult:
    """What a step made: the files that its manifest lists, and the counts to report."""

    files: tuple[FileEntry, ...]
    summary: Mapping[str, Any]


EVALUATION = "evaluation"
"""Name that all steps of the evaluation go by together, where steps are asked for by name."""

StepFunction = Callable[[Location], StepResult]


@dataclass(frozen=True)
class Step:
    """One step: `run(folder)` writes into the folder and returns what it made.

    identity: JSON values that, with the inputs' fingerprints, decide the result.
    scratch: folders below the step's own that hold working state (training checkpoints, say), gone once it is complete.
    source: name of the source model whose step this is, if it is one's: a run may go on without it (min_sources).
    claim: what it takes from the cluster while it works; None for what runs in the driver alone.
    result_version: of the code that makes it.
    """

    name: str
    identity: Mapping[str, Any]
    inputs: tuple[Step, ...]
    run: StepFunction
    scratch: tuple[str, ...] = field(default=())
    source: str | None = None
    result_version: int = RESULT_VERSION
    claim: Claim | None = None

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that name this step's result."""
        parts = [self.result_version, self.name, self.identity, [step.fingerprint for step in self.inputs]]
        text = json.dumps(parts, sort_keys=True, ensure_ascii=True, allow_nan=False)
        return hashlib.sha256(text.encode("ascii")).hexdigest()[:16]

    def folder(self, layout: RunLayout) -> Location:
        """Return where the result lies or will lie: in this run, or in the one that it is reused from."""
        return layout.step_folder(self.name, self.fingerprint)

    def reused_from(self, layout: RunLayout) -> str | None:
        """Return the name of the run that the result is read from, or None when it is this run's own."""
        return layout.run_of(self.name, self.fingerprint)


def is_meant(step: str, name: str) -> bool:
    """Tell whether `name` means the step: it is the step's own, or "evaluation", which all steps of that go by."""
    if name == EVALUATION:
        return step == "evaluate" or step.startswith("evaluation-")
    return step == name


def digest(value: Any) -> str:
    """Return one hash over a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=True).encode("ascii")).hexdigest()


def complete(step: Step, layout: RunLayout) -> bool:
    """Tell whether the step's result is there."""
    return read_manifest(step.folder(layout)) is not None


def execute(
    step: Step, layout: RunLayout, versions: Mapping[str, str], still_ours: Callable[[], None] = lambda: None
) -> Manifest:
    """Return the step's manifest, running the step first unless it is complete; nothing is written to a reused one.

    still_ours: raises when this driver has lost the run; called before the step is marked as complete.
    """
    folder = step.folder(layout)
    done = read_manifest(folder)
    reused_from = step.reused_from(layout)
    if done is not None:
        _require_same_inputs(step, layout, done)
        log.info("%s: complete already (%s)", step.name, folder)
        with within(step.name):
            emit(StepFound(done.seconds))
        if reused_from is None:
            _clear_scratch(step, folder)
        return done
    if reused_from is not None:
        raise StorageError(
            f"step {step.name} was complete in run {reused_from} when this run began and is gone now ({folder})",
            code="WRPO-S034", help="run the same command again: the step is made again in this run",
        )  # fmt: skip
    _clear_other_scratch(step, layout)
    input_contents = _input_contents(step, layout)
    started = time.monotonic()
    with within(step.name):
        emit(StepBegan())
        result = _made(step, folder)
        emit(StepEnded(time.monotonic() - started))
    if isinstance(result, Manifest):
        return result
    still_ours()
    manifest = create_manifest(
        folder,
        Manifest(
            step=step.name,
            fingerprint=step.fingerprint,
            identity=step.identity,
            inputs={given.name: given.fingerprint for given in step.inputs},
            files=tuple(sorted(result.files, key=lambda entry: entry.path)),
            summary=result.summary,
            versions=versions,
            seconds=round(time.monotonic() - started, 3),
            input_contents=input_contents,
            result_version=step.result_version,
        ),
    )
    _clear_scratch(step, folder)
    log.info("%s: done in %.1f s", step.name, manifest.seconds)
    return manifest


def _made(step: Step, folder: Location) -> StepResult | Manifest:
    """Return what the step made, or the manifest of another driver that was done first and cleared the scratch."""
    try:
        return step.run(folder)
    except (StorageError, FileNotFoundError) as error:
        if (done := read_manifest(folder)) is None:
            raise
        log.warning("%s: another driver was done first (%s)", step.name, error)
        return done


def _input_contents(step: Step, layout: RunLayout) -> dict[str, str]:
    """Return the content digests of the inputs that are complete."""
    manifests = {given.name: read_manifest(given.folder(layout)) for given in step.inputs}
    return {name: content_digest(manifest) for name, manifest in manifests.items() if manifest is not None}


def _require_same_inputs(step: Step, layout: RunLayout, done: Manifest) -> None:
    """What was made again after a repair may come out otherwise; what was made from the lost bytes is void then."""
    now = _input_contents(step, layout)
    changed = sorted(name for name, digest in now.items() if done.input_contents.get(name, digest) != digest)
    if changed:
        raise StorageError(
            f"step {step.name} was made from other files of {', '.join(changed)} than lie there now"
            f" ({step.folder(layout)})", code="WRPO-S033",
            help="`wrpo-ray inspect RUN --repair` removes the step; then run the same command again",
        )  # fmt: skip


def _clear_other_scratch(step: Step, layout: RunLayout) -> None:
    """Working state under another fingerprint is of a config that the run has left; its checkpoints can be large."""
    if not step.scratch:
        return
    below = layout.folder / step.name
    for place in below.walk():
        fingerprint, _, rest = place.relative_to(below).partition("/")
        if fingerprint != step.fingerprint and rest.startswith(tuple(f"{name}/" for name in step.scratch)):
            place.delete()


def _clear_scratch(step: Step, folder: Location) -> None:
    """A crash between manifest and clearing leaves working state behind, so this is tried on every later run too."""
    for name in step.scratch:
        (folder / name).delete_folder()
