"""Two models' answers to the same prompts: wins, ties and losses, with intervals and in words."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from wrpo_ray.evaluate.bootstrap import mean_interval
from wrpo_ray.evaluate.length_control import length_controlled
from wrpo_ray.evaluate.significance import sentence, verdict

JudgedBy = Literal["reward", "verifier", "judge"]
WIN, TIE, LOSS = 1.0, 0.5, 0.0


@dataclass(frozen=True)
class Outcome:
    """What one prompt says about two models.

    preference: 1 a win of the model, 0.5 a tie, 0 a loss. length_difference: characters of the baseline's answer minus
    those of the model's, of means where there are several answers.
    """

    preference: float
    length_difference: float


@dataclass(frozen=True)
class Compared:
    """Two models on the prompts that both have answers to.

    outcomes: by prompt_id. undecided: by prompt_id, why nothing is known. position_bias: see verdicts.position_bias.
    """

    model: str
    baseline: str
    judged_by: JudgedBy
    outcomes: Mapping[str, Outcome]
    undecided: Mapping[str, str] = field(default_factory=dict)
    position_bias: float | None = None


@dataclass(frozen=True)
class Answered:
    """One model's answers as a reward or a rule sees them: means over its samples, by prompt_id; see answers.py."""

    values: Mapping[str, float]
    lengths: Mapping[str, float]
    num_answers: int
    num_tokens: int


def compared(model: str, baseline: str, judged_by: JudgedBy, answered: Mapping[str, Answered]) -> Compared:
    """Compare two models by the values of their answers; equal values tie."""
    ours, theirs = answered[model], answered[baseline]
    outcomes = {
        prompt_id: Outcome(
            _preference(ours.values[prompt_id], theirs.values[prompt_id]),
            theirs.lengths[prompt_id] - ours.lengths[prompt_id],
        )
        for prompt_id in sorted(set(ours.values) & set(theirs.values))
    }
    return Compared(model, baseline, judged_by, outcomes)


def _preference(ours: float, theirs: float) -> float:
    return TIE if ours == theirs else WIN if ours > theirs else LOSS


def pair_entry(pair: Compared, num_bootstrap: int, seed: int) -> dict[str, Any]:
    """Return what evaluation.json says of a pair: rates in [0, 1], ties count half; null where nothing was decided."""
    outcomes = list(pair.outcomes.values())
    preferences = np.array([outcome.preference for outcome in outcomes])
    told = {
        "model": pair.model,
        "baseline": pair.baseline,
        "judged_by": pair.judged_by,
        "num_prompts": len(outcomes),
        "wins": int((preferences == WIN).sum()),
        "ties": int((preferences == TIE).sum()),
        "losses": int((preferences == LOSS).sum()),
        "position_bias": pair.position_bias,
        "num_undecided": len(pair.undecided),
    }
    if not outcomes:
        words = f"{pair.model} and {pair.baseline} cannot be compared: no prompt was decided{_undecided(pair)}"
        rates = dict.fromkeys(("win_rate", "low", "high", *_LENGTH_CONTROLLED))
        return told | rates | {"words": words}
    win_rate, interval = statistics.fmean(preferences), mean_interval(preferences, num_bootstrap, seed)
    said = verdict(told["wins"], told["losses"], interval)
    words = sentence(pair.model, pair.baseline, len(outcomes), win_rate, interval, said) + _undecided(pair)
    differences = np.array([outcome.length_difference for outcome in outcomes])
    controlled = length_controlled(preferences, differences, num_bootstrap, seed)
    rates = (controlled.win_rate, *controlled.interval) if controlled else (None, None, None)
    return {
        **told,
        "win_rate": win_rate,
        "low": interval.low,
        "high": interval.high,
        **dict(zip(_LENGTH_CONTROLLED, rates, strict=True)),
        "words": words,
    }


_LENGTH_CONTROLLED = ("length_controlled_win_rate", "length_controlled_low", "length_controlled_high")


def _undecided(pair: Compared) -> str:
    if not pair.undecided:
        return ""
    reasons = Counter(pair.undecided.values())
    named = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    return f"; undecided and left out: {named}"
