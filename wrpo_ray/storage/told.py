"""What those who show a run read of its summaries, metrics and starts, field by field.

Its own hash says that a record is whole; that its numbers are numbers, only a look at each tells. What nobody shows may
be anything: other versions tell other things.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

import pydantic
from pydantic import Field

from wrpo_ray.storage.location import Location
from wrpo_ray.storage.manifest import MANIFEST, Manifest
from wrpo_ray.storage.typed_records import typed_record

# Within what a float holds, or it could not be added up.
Number = Annotated[float, Field(ge=-1e300, le=1e300)]
Count = Annotated[int, Field(ge=0, lt=2**63)]


class _Told(pydantic.BaseModel):
    """What is shown; there may be more."""

    model_config = pydantic.ConfigDict(extra="allow", strict=True)


class _Estimate(_Told):
    mean: Number
    low: Number
    high: Number


class _Interval(_Told):
    value: Number
    low: Number
    high: Number


class _Model(_Told):
    __pydantic_extra__: dict[str, _Estimate] = Field(init=False)
    reward: _Estimate


class _Audit(_Told):
    num_prompts: Count
    same_response: _Interval
    same_source: _Interval
    same_reward: _Interval
    regret: _Interval
    gain_share: _Interval
    token_share: Number
    cost_share: Number


class _Summary(_Told):
    num_tokens: Number | None = None
    num_responses: Number | None = None
    num_rows: Number | None = None
    num_duplicates: Count = 0
    quarantined: dict[str, Count] = {}
    rows: dict[str, Count] = {}
    best_share: dict[str, Number] = {}


class _Fused(_Summary):
    num_quadruples: Count
    num_prompts: Count
    num_target_responses_tie: Count = 0
    num_without_source_response: Count = 0
    num_fewer_than_two_target_responses: Count = 0
    num_source_response_is_rejected: Count = 0


class _Evaluated(_Summary):
    models: dict[str, _Model] = {}


class _Allocated(_Summary):
    audit: _Audit | None = None
    findings: list[str] = []


class _OfStep(_Told):
    summary: _Summary


class _OfFuse(_Told):
    summary: _Fused


class _OfEvaluate(_Told):
    summary: _Evaluated


class _OfAllocate(_Told):
    summary: _Allocated


_KINDS: dict[str, type[_Told]] = {"fuse": _OfFuse, "evaluate": _OfEvaluate, "allocate": _OfAllocate}


class _Named(_Told):
    name: str


class _TokenPrices(_Told):
    input: Number
    output: Number


class _Prices(_Told):
    currency: str = ""
    per_hour: dict[str, Number] | None = None
    per_million_tokens: dict[str, _TokenPrices] | None = None


class _Config(_Told):
    sources: list[_Named] = []
    prices: _Prices | None = None


class _Stage(_Told):
    step: str
    seconds: Number
    responses: Number | None
    output_tokens: Number | None
    input_tokens: Number | None
    accelerator: str | None
    replicas: Number
    gpus_per_replica: Number
    endpoint: str | None = None


class _Plan(_Told):
    stages: list[_Stage] = []
    reason: str = ""


class _Start(_Told):
    config: _Config | None = None
    plan: _Plan = _Plan()
    versions: dict[str, Any] = {}


class _Metrics(_Told):
    step: Count
    num_tokens: Number = 0.0
    accuracies: float | None = Field(None, alias="rewards/accuracies")


def require_summary(manifest: Manifest, folder: Location) -> None:
    """Raise StorageError that names the first field of a step's summary that cannot be shown."""
    kind = _KINDS.get(manifest.step, _OfStep)
    typed_record(kind, {"summary": manifest.summary}, folder / MANIFEST, "a manifest", "WRPO-S011")


def require_start(record: Mapping[str, Any], place: Location) -> None:
    """Raise StorageError that names the first field of a start's record that cannot be shown."""
    typed_record(_Start, record, place, "the record of a start", "WRPO-S030")


def metrics_line(line: str, place: Location) -> dict[str, Any] | None:
    """Return a line of metrics, None for one that is no JSON: the last one may be half written.

    Raises StorageError that names the first field of any other line that cannot be shown.
    """
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    typed_record(
        _Metrics, found, place, "a file of metrics", "WRPO-S010", "remove that line, or have the step made again"
    )
    return found
