"""What evaluation.json says of the pairs of models that were compared: counts, rates, and whether they differ."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from wrpo_ray.evaluate.bootstrap import mean_interval
from wrpo_ray.evaluate.length_control import length_controlled
from wrpo_ray.evaluate.pairwise import LOSS, TIE, WIN, Compared
from wrpo_ray.evaluate.significance import evidence, holm, sentence, sign_test, verdict

_RATES = ("win_rate", "low", "high")
_LENGTH_CONTROLLED = ("length_controlled_win_rate", "length_controlled_low", "length_controlled_high")
_P_VALUES = ("p_value", "p_value_corrected")


def pair_entries(pairs: Sequence[Compared], num_bootstrap: int, seed: int) -> list[dict[str, Any]]:
    """Return one entry for each pair: rates in [0, 1], ties count half; null where nothing was decided.

    All pairs, whoever judged them, are one family of comparisons: see significance.holm.
    """
    counted = [_counts(pair) for pair in pairs]
    decided = [position for position, pair in enumerate(pairs) if pair.outcomes]
    alone = {position: sign_test(counted[position]["wins"], counted[position]["losses"]) for position in decided}
    corrected = dict(zip(decided, holm(list(alone.values())), strict=True))
    return [
        counted[position]
        | (
            _decided(pair, counted[position], (alone[position], corrected[position]), len(decided), num_bootstrap, seed)
            if pair.outcomes
            else _nothing_decided(pair)
        )
        for position, pair in enumerate(pairs)
    ]


def _counts(pair: Compared) -> dict[str, Any]:
    preferences = Counter(outcome.preference for outcome in pair.outcomes.values())
    return {
        "model": pair.model,
        "baseline": pair.baseline,
        "judged_by": pair.judged_by,
        "num_prompts": len(pair.outcomes),
        "wins": preferences[WIN],
        "ties": preferences[TIE],
        "losses": preferences[LOSS],
        "position_bias": pair.position_bias,
        "num_undecided": len(pair.undecided),
    }


def _nothing_decided(pair: Compared) -> dict[str, Any]:
    words = f"{pair.model} and {pair.baseline} cannot be compared: no prompt was decided{_undecided(pair)}"
    return dict.fromkeys((*_RATES, *_LENGTH_CONTROLLED, *_P_VALUES)) | {"words": words}


def _decided(
    pair: Compared, counted: Mapping[str, Any], p_values: tuple[float, float], num_comparisons: int,
    num_bootstrap: int, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """p_values: of the sign test, alone and corrected for `num_comparisons` of them."""
    outcomes = list(pair.outcomes.values())
    preferences = np.array([outcome.preference for outcome in outcomes])
    win_rate, interval = statistics.fmean(preferences), mean_interval(preferences, num_bootstrap, seed)
    differences = np.array([outcome.length_difference for outcome in outcomes])
    controlled = length_controlled(preferences, differences, num_bootstrap, seed)
    rates = (controlled.win_rate, *controlled.interval) if controlled else (None, None, None)
    said = f"{verdict(p_values[1], interval)} {evidence(*p_values, num_comparisons)}"
    words = sentence(pair.model, pair.baseline, counted["num_prompts"], win_rate, interval, said)
    return {
        **dict(zip(_RATES, (win_rate, *interval), strict=True)),
        **dict(zip(_LENGTH_CONTROLLED, rates, strict=True)),
        **dict(zip(_P_VALUES, p_values, strict=True)),
        "words": words + _undecided(pair),
    }


def _undecided(pair: Compared) -> str:
    if not pair.undecided:
        return ""
    reasons = Counter(pair.undecided.values())
    named = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    return f"; undecided and left out: {named}"
