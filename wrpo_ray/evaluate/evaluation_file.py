"""evaluation.json as whoever shows it reads it: the file of a complete `evaluate` step, whole and of a known format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pydantic

from wrpo_ray.errors import StorageError
from wrpo_ray.evaluate.table import FORMAT
from wrpo_ray.storage.location import Location
from wrpo_ray.storage.manifest import Manifest
from wrpo_ray.storage.tables import verified_bytes

FILE = "evaluation.json"
_MAX_NAMED = 5


class _Row(pydantic.BaseModel):
    """What must be there; later versions may say more."""

    model_config = pydantic.ConfigDict(extra="allow", strict=True)


class _Model(_Row):
    name: str
    num_answers: int
    mean_tokens: float | None
    mean_reward: float | None
    reward_low: float | None
    reward_high: float | None


class _Pair(_Row):
    model: str
    baseline: str
    judged_by: str
    num_prompts: int
    wins: int
    ties: int
    losses: int
    win_rate: float | None
    low: float | None
    high: float | None
    length_controlled_win_rate: float | None
    length_controlled_low: float | None
    length_controlled_high: float | None
    position_bias: float | None
    num_undecided: int
    words: str


class _Refusals(_Row):
    name: str
    refusal_rate: float
    low: float
    high: float


class _Safety(_Row):
    num_prompts: int
    models: list[_Refusals]
    words: str


class _Benchmark(_Row):
    model: str
    task: str
    metric: str
    value: float
    stderr: float | None


class _Evaluation(_Row):
    models: list[_Model]
    pairs: list[_Pair]
    safety: _Safety | None
    benchmarks: list[_Benchmark] | None


def read_evaluation_file(step: Location, manifest: Manifest) -> dict[str, Any] | None:
    """Return evaluation.json of a complete step; None when there is none, or it is of a version that named no format.

    Raises StorageError when the file is not what was written, is of another format, or lacks what its format has.
    """
    entry = next((entry for entry in manifest.files if entry.path == FILE), None)
    if entry is None:
        return None
    found = _parsed(step, verified_bytes(step, entry))
    if "format" not in found:
        return None
    _require_format(step, found)
    return found


def _parsed(step: Location, content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise StorageError(f"{step / FILE} is not JSON: {error}", code="WRPO-S051", help=_help(step)) from error
    if not isinstance(found, dict):
        rule = f"{step / FILE} must hold an object with `format`, and holds a {type(found).__name__}"
        raise StorageError(rule, code="WRPO-S051", help=_help(step))
    return found


def _help(step: Location) -> str:
    return f"remove {step}, then python jobs/evaluate.py --config X.yaml makes it anew from the answers that are there"


def _require_format(step: Location, found: Mapping[str, Any]) -> None:
    place, number = step / FILE, found["format"]
    if number != FORMAT:
        raise StorageError(
            f"{place} has format {number!r}, this version reads format {FORMAT}", code="WRPO-S050",
            help="read it with the version of wrpo_ray that made the run",
        )  # fmt: skip
    try:
        _Evaluation.model_validate(found)
    except pydantic.ValidationError as error:
        faults = [f"{_path(fault['loc'])}: {fault['msg']}" for fault in error.errors()]
        more = f" and {len(faults) - _MAX_NAMED} more" if len(faults) > _MAX_NAMED else ""
        raise StorageError(
            f"{place} says that it has format {FORMAT}, and does not: {'; '.join(faults[:_MAX_NAMED])}{more}",
            code="WRPO-S051", help=_help(step),
        ) from error  # fmt: skip


def _path(parts: tuple[int | str, ...]) -> str:
    return ".".join(map(str, parts))
