"""Win rate with the effect of answer length taken out, after AlpacaEval 2 (https://arxiv.org/abs/2404.04475).

As in alpaca_eval 0.6.6, metrics/glm_winrate.py, formula `length_controlled_minimal`: a logistic regression of the
preference (a tie is half a win and half a loss) on a constant for the model and on tanh of (baseline's length -
model's length) / its standard deviation (n - 1 in the denominator, nothing subtracted); lengths in characters; the
result is what it predicts where the lengths are equal. Not as there:
no term for the difficulty of an instruction and no data of "gamed" baselines (both are known for AlpacaEval's 805
instructions alone); a ridge of fixed strength, C = 100, which alpaca_eval has as its default without cross-validation,
in place of an L1 penalty whose strength is chosen by cross-validation; an interval by bootstrap over prompts, where it
gives the standard error of the predictions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from wrpo_ray.evaluate.bootstrap import Floats, Interval, interval, resamples

# As scikit-learn counts it: the ridge is |weights|^2 / (2 C) beside the sum of the losses.
_C = 100.0
_MAX_STEPS, _TOLERANCE, _LONGEST_STEP = 100, 1e-9, 1.0


class LengthControlled(NamedTuple):
    """A length-controlled win rate and its 95 % interval."""

    win_rate: float
    interval: Interval


def length_controlled(
    preferences: Floats, length_differences: Floats, num_bootstrap: int, seed: int
) -> LengthControlled | None:
    """Return the win rate at equal lengths, or None when all length differences are the same.

    preferences: [n], 1 for a win of the model, 0 for a loss. length_differences: [n], characters of the baseline's
    answer minus those of the model's.
    """
    if len(preferences) < 2 or np.ptp(length_differences) == 0:
        return None
    estimates = [
        _win_rates(preferences[drawn], length_differences[drawn])
        for drawn in resamples(len(preferences), num_bootstrap, seed)
    ]
    win_rate = _win_rates(preferences[None], length_differences[None])[0]
    return LengthControlled(float(win_rate), interval(np.concatenate(estimates)))


def _win_rates(preferences: Floats, length_differences: Floats) -> Floats:
    """Return [resamples] from two arrays [resamples, n]."""
    deviation = length_differences.std(axis=1, ddof=1, keepdims=True)
    # Of a resample whose lengths are all the same there is nothing to take out.
    features = np.tanh(
        np.divide(length_differences, deviation, out=np.zeros_like(length_differences), where=deviation > 0)
    )
    return _logistic(_constants(features, preferences))


def _constants(features: Floats, preferences: Floats) -> Floats:
    """Return the model's own weight of each regression, [resamples], by Newton's method on both weights at once."""
    constant, slope = np.zeros(len(features)), np.zeros(len(features))
    for _ in range(_MAX_STEPS):
        predicted = _logistic(constant[:, None] + slope[:, None] * features)
        residual, curvature = predicted - preferences, predicted * (1 - predicted)
        gradient = residual.sum(axis=1) + constant / _C, (residual * features).sum(axis=1) + slope / _C
        # The symmetric matrix of second derivatives, [[a, b], [b, d]].
        a, d = curvature.sum(axis=1) + 1 / _C, (curvature * features**2).sum(axis=1) + 1 / _C
        b = (curvature * features).sum(axis=1)
        determinant = a * d - b * b
        steps = np.stack([d * gradient[0] - b * gradient[1], a * gradient[1] - b * gradient[0]]) / determinant
        # Far from the minimum a whole step can lead further away.
        steps *= np.minimum(1.0, _LONGEST_STEP / np.maximum(np.abs(steps).max(axis=0), _TOLERANCE))
        constant, slope = constant - steps[0], slope - steps[1]
        if np.abs(steps).max() < _TOLERANCE:
            break
    return constant


def _logistic(values: Floats) -> Floats:
    return np.exp(-np.logaddexp(0.0, -values))
