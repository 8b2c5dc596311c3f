"""A manifest against the run: is it this step's, and was the step made from what its inputs are now?"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from wrpo_ray.run_inspect.findings import Finding
from wrpo_ray.run_state import Contents, PlannedStep
from wrpo_ray.steps import Step
from wrpo_ray.storage.location import Location
from wrpo_ray.storage.manifest import MANIFEST, Manifest, content_digest

_MANIFEST_CODE, _MADE_FROM = "WRPO-S011", "WRPO-S033"


@dataclass(frozen=True)
class _Input:
    fingerprint: str


def manifest_findings(
    manifest: Manifest, step: PlannedStep, planned: Sequence[PlannedStep], folder: Location
) -> Iterator[Finding]:
    """A fingerprint follows from identity and inputs, so it tells when one of the three was changed."""
    of = functools.partial(Finding, "manifest", str(folder / MANIFEST), code=_MANIFEST_CODE)
    inputs = cast("tuple[Step, ...]", tuple(map(_Input, manifest.inputs.values())))
    # By the rules of the code that made it: a newer one has other fingerprints, and no quarrel with this one.
    made = Step(manifest.step, manifest.identity, inputs, cast("Any", None), result_version=manifest.result_version)
    computed = made.fingerprint
    if (manifest.step, manifest.fingerprint) != (step.name, step.fingerprint):
        yield of(reason=f"it is of step {manifest.step} {manifest.fingerprint}, in the folder of {step.name}")
    elif computed != step.fingerprint:
        yield of(reason=f"its identity and inputs give the fingerprint {computed}, not {step.fingerprint}")
    fingerprints = {other.name: other.fingerprint for other in planned}
    expected = {name: fingerprints[name] for name in step.inputs}
    if dict(manifest.inputs) != expected:
        differing = sorted(
            name for name in {*expected, *manifest.inputs} if expected.get(name) != manifest.inputs.get(name)
        )
        yield of(reason=f"it was made from other inputs than the run's: {', '.join(differing)}")


def made_from(
    manifest: Manifest, step: PlannedStep, all_contents: Mapping[str, Contents], folder: Location
) -> Iterator[Finding]:
    recorded = manifest.input_contents
    for name in step.inputs:
        current = all_contents[name].manifest
        if current is None or name not in recorded:
            continue
        digest = content_digest(current)
        if digest != recorded[name]:
            yield Finding(
                "made_from", str(folder / MANIFEST), f"step {step.name} was made from other files of step {name} than"
                " lie there now", _MADE_FROM, recorded[name], digest, affected=f"all of step {step.name}",
            )  # fmt: skip
