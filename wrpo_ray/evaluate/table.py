"""What the step `evaluate` writes: evaluation.json, and what became of every prompt of every pair."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from wrpo_ray.evaluate.expected_reward import Comparison, Estimate, estimate
from wrpo_ray.evaluate.pairwise import Answered, Compared

FORMAT = 1
OUTCOMES = pa.schema(
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("baseline", pa.string(), nullable=False),
        pa.field("judged_by", pa.string(), nullable=False),
        # 1 a win of the model, 0.5 a tie, 0 a loss; null where nothing was decided, and then `undecided` says why.
        pa.field("preference", pa.float64()),
        pa.field("undecided", pa.string()),
    ]
)


def model_entries(
    comparison: Comparison, answered: Mapping[str, Answered], sources: Sequence[str], num_bootstrap: int, seed: int
) -> list[dict[str, Any]]:
    """Return what evaluation.json says of each model.

    Rewards are those on the prompts that the run's own models share; of a source, on those of them that it has
    answered too. A source without any has no reward (null).
    """
    shared = {name: values["reward"] for name, values in comparison.models.items()}
    entries = [_entry(name, answered[name], reward) for name, reward in shared.items()]
    for name in sources:
        values = [answered[name].values[each] for each in comparison.prompt_ids if each in answered[name].values]
        entries.append(_entry(name, answered[name], estimate(values, num_bootstrap, seed) if values else None))
    return entries


def _entry(name: str, answered: Answered, reward: Estimate | None) -> dict[str, Any]:
    told = {
        "name": name,
        "num_answers": answered.num_answers,
        "mean_tokens": answered.num_tokens / answered.num_answers if answered.num_answers else None,
    }
    rewards = (reward.mean, reward.low, reward.high) if reward else (None, None, None)
    return told | dict(zip(("mean_reward", "reward_low", "reward_high"), rewards, strict=True))


def outcomes_table(pairs: Sequence[Compared]) -> pa.Table:
    """Return one row for each pair and prompt."""
    return pa.Table.from_pylist([row for pair in pairs for row in _rows(pair)], schema=OUTCOMES)


def _rows(pair: Compared) -> Iterator[dict[str, Any]]:
    head = {"model": pair.model, "baseline": pair.baseline, "judged_by": pair.judged_by}
    for prompt_id, outcome in pair.outcomes.items():
        yield {"prompt_id": prompt_id, **head, "preference": outcome.preference, "undecided": None}
    for prompt_id, reason in pair.undecided.items():
        yield {"prompt_id": prompt_id, **head, "preference": None, "undecided": reason}


def pair_lines(pairs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the pairs as a table and as sentences, for a terminal."""
    heading = ("model", "baseline", "judged by", "wins", "ties", "losses", "win rate [95 % interval]")
    rows = [(*heading, "p, corrected", "length-controlled"), *(_cells(pair) for pair in pairs)]
    return [*aligned(rows), "", *(f"by {pair['judged_by']}: {pair['words']}{_bias(pair)}" for pair in pairs)]


def model_lines(models: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the models as a table for a terminal."""
    rows = [("model", "answers", "mean tokens", "expected reward [95 % interval]")]
    for model in models:
        tokens = "" if model["mean_tokens"] is None else f"{model['mean_tokens']:.1f}"
        low, high = model["reward_low"], model["reward_high"]
        reward = "" if low is None else str(Estimate(model["mean_reward"], low, high))
        rows.append((model["name"], str(model["num_answers"]), tokens, reward))
    return aligned(rows)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table; the first row is the heading, which a line is drawn under."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [lines[0], "  ".join("-" * width for width in widths), *lines[1:]]


def _cells(pair: Mapping[str, Any]) -> tuple[str, ...]:
    counts = (str(pair[name]) for name in ("wins", "ties", "losses"))
    # Evaluations of older versions have no such value.
    corrected = pair.get("p_value_corrected")
    p_value = "" if corrected is None else f"{corrected:.2g}"
    controlled = _rate(pair, "length_controlled_win_rate", "length_controlled_")
    return pair["model"], pair["baseline"], pair["judged_by"], *counts, _rate(pair, "win_rate", ""), p_value, controlled


def _rate(pair: Mapping[str, Any], name: str, prefix: str) -> str:
    if pair[name] is None:
        return ""
    return f"{pair[name]:.1%} [{pair[f'{prefix}low']:.1%}, {pair[f'{prefix}high']:.1%}]"


def _bias(pair: Mapping[str, Any]) -> str:
    bias = pair["position_bias"]
    if bias is None or math.isclose(bias, 0.0):
        return ""
    return f"; position bias {bias:+.2f} (for the answer shown {'first' if bias > 0 else 'second'})"
