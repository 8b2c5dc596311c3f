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
from pathlib import Path
from typing import Any

from wrpo_ray.storage import Manifest, RunLayout, describe_files, read_manifest, write_manifest

log = logging.getLogger(__name__)

# Raise it when a change of the code changes results: what older code made is then made again.
_RESULT_VERSION = 1

StepFunction = Callable[[Path], Mapping[str, Any]]


@dataclass(frozen=True)
class Step:
    """One step: `run(folder)` writes into the folder and returns the counts to report.

    identity: JSON values that, with the inputs' fingerprints, decide the result.
    scratch: names below the folder that are working state, not results (training checkpoints, say).
    """

    name: str
    identity: Mapping[str, Any]
    inputs: tuple[Step, ...]
    run: StepFunction
    scratch: tuple[str, ...] = field(default=())

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that name this step's result."""
        parts = [_RESULT_VERSION, self.name, self.identity, [step.fingerprint for step in self.inputs]]
        text = json.dumps(parts, sort_keys=True, ensure_ascii=True, allow_nan=False)
        return hashlib.sha256(text.encode("ascii")).hexdigest()[:16]

    def folder(self, layout: RunLayout) -> Path:
        return layout.step_folder(self.name, self.fingerprint)


def complete(step: Step, layout: RunLayout) -> bool:
    """Tell whether the step's result is there."""
    return read_manifest(step.folder(layout)) is not None


def execute(step: Step, layout: RunLayout, versions: Mapping[str, str]) -> Manifest:
    """Return the step's manifest, running the step first unless it is complete."""
    folder = step.folder(layout)
    done = read_manifest(folder)
    if done is not None:
        log.info("%s: complete already (%s)", step.name, folder)
        return done
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    summary = step.run(folder)
    manifest = Manifest(
        step=step.name,
        fingerprint=step.fingerprint,
        identity=step.identity,
        inputs={given.name: given.fingerprint for given in step.inputs},
        files=describe_files(folder, _result_files(folder, step.scratch)),
        summary=summary,
        versions=versions,
        seconds=round(time.monotonic() - started, 3),
    )
    write_manifest(folder, manifest)
    log.info("%s: done in %.1f s", step.name, manifest.seconds)
    return manifest


def _result_files(folder: Path, scratch: tuple[str, ...]) -> list[Path]:
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return [path for path in files if path.relative_to(folder).parts[0] not in scratch]
