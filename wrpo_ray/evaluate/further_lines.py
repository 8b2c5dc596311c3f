"""What a finished run prints of refusals, lm-eval and benchmark answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_LM_EVAL = "evaluation-lm-eval-"


def further_lines(summaries: Mapping[str, Mapping[str, Any]]) -> str:
    """Return some lines, none when there was nothing of this; summaries: of the run's steps by name."""
    parts = [
        _safety(summaries.get("evaluation-safety")),
        _lm_eval(summaries),
        _benchmarks(summaries.get("evaluation-benchmarks")),
    ]
    return "\n\n".join(part for part in parts if part)


def _safety(summary: Mapping[str, Any] | None) -> str:
    return f"refusals: {summary['words']}" if summary else ""


def _lm_eval(summaries: Mapping[str, Mapping[str, Any]]) -> str:
    """One line for each task and metric, with the models in their order."""
    rows: dict[tuple[str, str], list[str]] = {}
    for name, summary in summaries.items():
        for row in summary["benchmarks"] if name.startswith(_LM_EVAL) else ():
            stderr = "" if row["stderr"] is None else f" ± {row['stderr']:.4f}"
            rows.setdefault((row["task"], row["metric"]), []).append(f"{row['model']} {row['value']:.4f}{stderr}")
    lines = [f"  {task} {metric}: {', '.join(values)}" for (task, metric), values in sorted(rows.items())]
    return "\n".join(["lm-eval (± one standard error):", *lines]) if lines else ""


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
