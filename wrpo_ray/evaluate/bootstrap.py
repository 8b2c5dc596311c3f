"""Percentile bootstrap over prompts, seeded: equal numbers of prompts are resampled alike."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wrpo_ray.schema import stable_hash

Floats = NDArray[np.float64]
# Of one piece of the work: a resample of 20,000 prompts and 2,000 of them must fit into memory piece by piece.
_MAX_DRAWS = 2**21
_PERCENTILES = (2.5, 97.5)


class Interval(NamedTuple):
    """A 95 % confidence interval."""

    low: float
    high: float


def resamples(num_prompts: int, num_bootstrap: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Yield positions drawn with replacement, [some resamples, num_prompts], `num_bootstrap` resamples in all."""
    generator = np.random.default_rng(stable_hash("bootstrap", seed))
    at_a_time = max(1, _MAX_DRAWS // num_prompts)
    for start in range(0, num_bootstrap, at_a_time):
        size = (min(at_a_time, num_bootstrap - start), num_prompts)
        yield generator.integers(0, num_prompts, size=size)


def mean_interval(values: Floats, num_bootstrap: int, seed: int) -> Interval:
    """Return the interval of the mean of `values`, one for each prompt."""
    means = [values[drawn].mean(axis=1) for drawn in resamples(len(values), num_bootstrap, seed)]
    return interval(np.concatenate(means))


def interval(estimates: Floats) -> Interval:
    """Return the interval of a quantity from its values on all resamples."""
    low, high = np.percentile(estimates, _PERCENTILES)
    return Interval(float(low), float(high))
