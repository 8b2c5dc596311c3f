"""Whether one model is better than another, in one plain sentence, however many comparisons are made at once."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate

from wrpo_ray.evaluate.bootstrap import Interval

_LEVEL = 0.05
_LEAST_SHOWN = 0.0001


def sign_test(wins: int, losses: int) -> float:
    """Return the two-sided p-value of the exact sign test: the chance of a result so uneven between equal models."""
    total, fewer = wins + losses, min(wins, losses)
    # C(n, k + 1) = C(n, k) (n - k) / (k + 1), exactly.
    combinations = accumulate(range(fewer), lambda count, k: count * (total - k) // (k + 1), initial=1)
    return min(1.0, float(Fraction(2 * sum(combinations), 2**total)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for being several: the chance that any one of them at most 0.05 is a mistake is 0.05.

    The smallest of n is multiplied by n, the next by n - 1, and so on, never below the one before. It holds for tests
    that depend on each other, as these do. S. Holm 1979, https://www.jstor.org/stable/4615733.
    """
    corrected, least = [0.0] * len(p_values), 0.0
    for rank, position in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[position]))
        corrected[position] = least
    return corrected


def verdict(p_value: float, interval: Interval) -> str:
    """Return "better", "worse" or "no difference can be seen".

    Both must speak for a difference, the interval and the sign test (corrected, of several): on a handful of prompts a
    bootstrap interval is too narrow, and without a single loss it has no width at all.
    """
    if interval.low <= 0.5 <= interval.high or p_value > _LEVEL:
        return "no difference can be seen"
    return "better" if interval.low > 0.5 else "worse"


def sentence(model: str, baseline: str, num_prompts: int, win_rate: float, interval: Interval, said: str) -> str:
    """Return who beats whom how often, and what that says."""
    low, high = 100 * interval.low, 100 * interval.high
    return (
        f"{model} beats {baseline} on {100 * win_rate:.1f} % of {num_prompts} prompt{'' if num_prompts == 1 else 's'}"
        f" (95 % interval {low:.1f} to {high:.1f}): {said}"
    )


def evidence(p_value: float, corrected: float, num_comparisons: int) -> str:
    """Return what the verdict rests on, in brackets: the sign test, alone and as one of several comparisons."""
    alone, as_one = _p(p_value), _p(corrected)
    if num_comparisons == 1:
        return f"(sign test: {alone})"
    if alone == as_one:
        return f"(sign test: {alone}, also as one of {num_comparisons} comparisons)"
    return f"(sign test: {as_one} as one of {num_comparisons} comparisons, {alone} alone)"


def _p(p_value: float) -> str:
    return f"p < {_LEAST_SHOWN:.4f}" if p_value < _LEAST_SHOWN else f"p = {p_value:.2g}"
