"""A study's results as text, JSON and CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from wrpo_ray.planning.units import columns
from wrpo_ray.storage.location import Location, json_bytes
from wrpo_ray.study.results import Cell, Counter, RunResult, counters

RESULTS_JSON, RESULTS_CSV = "results.json", "results.csv"
# Kinds of steps by how their names begin, behind `first-` and `evaluation-`.
KINDS = {
    "sample-": "sampling", "score": "scoring", "sft": "SFT", "reference": "reference", "wrpo": "preference training",
}  # fmt: skip
_WINS = "win_share/"
_SHOWN = {
    "reward/fused": "reward fused", "reward/target-sft": "reward Target-SFT", "gain/fused": "gain",
    "win_rate/reward/fused/target-sft": "win rate", "train/rewards/accuracies": "accuracy",
    "train/rewards/margins": "margin", "train/loss": "loss",
}  # fmt: skip


def results_text(results: Sequence[RunResult]) -> str:
    """Return one line per run, and what was made and shared."""
    heading = ("run", "status", *_SHOWN.values(), "most wins", "made", "read", "GPU-h", "CPU-h", "differs")
    rows = [heading, *(_line(result) for result in results)]
    kept = columns([row[:-1] for row in rows]).splitlines()
    table = "\n".join(f"{line}  {row[-1]}".rstrip() for line, row in zip(kept, rows, strict=True))
    return f"{table}\n\n{counters_text(counters(results))}"


def _line(result: RunResult) -> tuple[str, ...]:
    row = result.row
    differs = ", ".join(f"{path}={value}" for path, value in result.run.changes.items())
    shown = [_short(row.get(name)) for name in _SHOWN]
    # A run without GPUs has no column of zeros.
    hours = [_short(row.get(name) or None) for name in ("gpu_hours", "cpu_hours")]
    made, read = str(row["steps_made"]), str(row["steps_read"])
    return (result.run.name, result.status, *shown, _most_wins(row), made, read, *hours, differs)


def _most_wins(row: Mapping[str, Cell]) -> str:
    """Return the source that gave y_ws most often, and its share; all of them are in the files."""
    shares = {name.removeprefix(_WINS): share for name, share in row.items() if name.startswith(_WINS)}
    numbers = {name: share for name, share in shares.items() if isinstance(share, int | float)}
    if not numbers:
        return ""
    best = max(numbers, key=lambda name: numbers[name])
    return f"{best} {numbers[best]:.0%}"


def _short(value: Cell) -> str:
    return f"{value:.3f}" if isinstance(value, int | float) else ""


def counters_text(counts: Iterable[Counter]) -> str:
    """Return how many steps of each kind there are, and how often they were made and read."""
    by_kind: dict[str, list[Counter]] = {}
    for count in counts:
        if (kind := kind_of(count.step)) is not None:
            by_kind.setdefault(kind, []).append(count)
    rows = [("steps", "different", "made", "read by others")]
    for kind, of_kind in by_kind.items():
        made, read = sum(count.made for count in of_kind), sum(count.read for count in of_kind)
        rows.append((kind, str(len(of_kind)), str(made), str(read)))
    return columns(rows)


def kind_of(step: str) -> str | None:
    """Return what kind of step has this name; None for one that takes no engine and no training."""
    bare = step.removeprefix("first-").removeprefix("evaluation-")
    return next((kind for start, kind in KINDS.items() if bare.startswith(start)), None)


def write_results(folder: Location, study: str, results: Sequence[RunResult]) -> None:
    """Write results.json and results.csv into the study's folder, in place of those of an earlier start."""
    (folder / RESULTS_JSON).write_bytes(json_bytes(results_json(study, results)))
    (folder / RESULTS_CSV).write_bytes(results_csv(results).encode("utf-8"))


def results_json(study: str, results: Sequence[RunResult]) -> dict[str, Any]:
    """Return the results as JSON values."""
    return {
        "format": 1,
        "study": study,
        "runs": [
            {
                "name": result.run.name,
                "folder": result.run.config.run.name,
                "status": result.status,
                "differs": result.run.changes,
                "numbers": {name: _finite(value) for name, value in result.row.items() if name != "run"},
            }
            for result in results
        ],
        "counters": [count.__dict__ | {"kind": kind_of(count.step)} for count in counters(results)],
    }


def _finite(value: Cell) -> Cell:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def results_csv(results: Sequence[RunResult]) -> str:
    """Return one line per run; what differs has a column for each path, under its name in the config."""
    rows: list[Mapping[str, Any]] = [
        {"run": each.run.name, "status": each.status, **each.run.changes, **each.row} for each in results
    ]
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
