"""Temperatures of single prompts: a prompts step may say that some of its prompts are answered at one of their own.

<prompts step>/temperatures.json   by prompt_id; prompts that it leaves out have the temperature of the model's sampling
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from wrpo_ray.steps import StepResult
from wrpo_ray.storage.location import Location, json_bytes
from wrpo_ray.storage.manifest import require_manifest
from wrpo_ray.storage.tables import verified_bytes, write_file

_FILE = "temperatures.json"


def with_temperatures(written: StepResult, folder: Location, temperatures: Mapping[str, float]) -> StepResult:
    """Return what a prompts step made in `folder` with the temperatures beside it; as it is when there are none."""
    if not temperatures:
        return written
    entry = write_file(folder, _FILE, json_bytes(dict(sorted(temperatures.items()))))
    return StepResult((*written.files, entry), written.summary)


def read_temperatures(prompts: Location) -> dict[str, float]:
    """Return the temperatures of a finished prompts step; none when it has no such file."""
    entry = next((entry for entry in require_manifest(prompts).files if entry.path == _FILE), None)
    return {} if entry is None else json.loads(verified_bytes(prompts, entry))
