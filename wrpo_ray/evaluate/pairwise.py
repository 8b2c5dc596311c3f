"""Two models' answers to the same prompts: which prompt is a win, a tie or a loss, and how long the answers are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

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
