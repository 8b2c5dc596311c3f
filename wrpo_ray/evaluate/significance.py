"""Whether one model is better than another, in one plain sentence."""

from __future__ import annotations

from fractions import Fraction
from itertools import accumulate

from wrpo_ray.evaluate.bootstrap import Interval

_LEVEL = 0.05


def sign_test(wins: int, losses: int) -> float:
    """Return the two-sided p-value of the exact sign test: the chance of a result so uneven between equal models."""
    total, fewer = wins + losses, min(wins, losses)
    # C(n, k + 1) = C(n, k) (n - k) / (k + 1), exactly.
    combinations = accumulate(range(fewer), lambda count, k: count * (total - k) // (k + 1), initial=1)
    return min(1.0, float(Fraction(2 * sum(combinations), 2**total)))


def verdict(wins: int, losses: int, interval: Interval) -> str:
    """Return "better", "worse" or "no difference can be seen".

    Both must speak for a difference, the interval and the sign test: on a handful of prompts a bootstrap interval is
    too narrow, and without a single loss it has no width at all.
    """
    if interval.low <= 0.5 <= interval.high or sign_test(wins, losses) > _LEVEL:
        return "no difference can be seen"
    return "better" if interval.low > 0.5 else "worse"


def sentence(model: str, baseline: str, num_prompts: int, win_rate: float, interval: Interval, said: str) -> str:
    """Return who beats whom how often, and what that says."""
    low, high = 100 * interval.low, 100 * interval.high
    return (
        f"{model} beats {baseline} on {100 * win_rate:.1f} % of {num_prompts} prompt{'' if num_prompts == 1 else 's'}"
        f" (95 % interval {low:.1f} to {high:.1f}): {said}"
    )
