"""What a finished run prints of refusals, lm-eval and benchmark answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

_LM_EVAL = "evaluation-lm-eval-"


def further_lines(summaries: Mapping[str, Mapping[str, Any]]) -> str:
    """Return some lines, none when there was nothing of this; summaries: of the run's steps by name."""
    rows = [row for name, told in summaries.items() if name.startswith(_LM_EVAL) for row in told["benchmarks"]]
    found = {"safety": summaries.get("evaluation-safety"), "benchmarks": rows}
    parts = [found_lines(found), _benchmarks(summaries.get("evaluation-benchmarks"))]
    return "\n\n".join(part for part in parts if part)


def found_lines(found: Mapping[str, Any]) -> str:
    """Return what evaluation.json says under `safety` and `benchmarks`, nothing when it has neither."""
    parts = []
    if found["safety"]:
        parts.append(f"refusals: {found['safety']['words']}")
    if found["benchmarks"]:
        parts.append("\n".join(["lm-eval (± one standard error):", *_tasks(found["benchmarks"])]))
    return "\n\n".join(parts)


def _tasks(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """One line for each task and metric, with the models in their order."""
    told: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        stderr = "" if row["stderr"] is None else f" ± {row['stderr']:.4f}"
        told.setdefault((row["task"], row["metric"]), []).append(f"{row['model']} {row['value']:.4f}{stderr}")
    return [f"  {task} {metric}: {', '.join(values)}" for (task, metric), values in sorted(told.items())]


def _benchmarks(summary: Mapping[str, Any] | None) -> str:
    """How many answers there are to be judged, and that some are missing."""
    if not summary:
        return ""
    lines = []
    for model, told in summary["models"].items():
        counts = ", ".join(f"{count} {benchmark}" for benchmark, count in told["num_answers"].items())
        missing = told["num_questions_without_answer"]
        lines.append(f"  {model}: {counts}" + (f"; {missing} questions without answer" if missing else ""))
    return "\n".join(["answers for benchmarks (docs/benchmarks.md says how to judge them):", *lines])
