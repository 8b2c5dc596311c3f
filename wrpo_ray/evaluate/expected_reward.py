"""Expected reward of models on held-out prompts, with confidence intervals over prompts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wrpo_ray.errors import DataError
from wrpo_ray.schema import ScoredResponse, stable_hash
from wrpo_ray.selection import by_prompt
from wrpo_ray.storage import iter_rows


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95 % confidence interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def prompt_means(scored: Path) -> dict[str, float]:
    """Return the mean finite reward of every prompt in a finished scoring step: its expected reward.

    Raises DataError when a prompt has no finite reward: leaving it out would favour a model that fails on it.
    """
    means: dict[str, float] = {}
    for rows in iter_rows(scored, ScoredResponse):
        for prompt_id, responses in by_prompt(rows).items():
            finite = [response.reward for response in responses if math.isfinite(response.reward)]
            if not finite:
                raise DataError(f"{scored}: prompt {prompt_id} has no finite reward, so the models cannot be compared")
            means[prompt_id] = sum(finite) / len(finite)
    return means


def estimate(values: Sequence[float], num_bootstrap: int, seed: int) -> Estimate:
    """Return mean and percentile-bootstrap interval of `values`, resampled with replacement `num_bootstrap` times."""
    data = np.asarray(values, dtype=np.float64)
    generator = np.random.default_rng(stable_hash("bootstrap", seed))
    means = data[generator.integers(0, len(data), size=(num_bootstrap, len(data)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Estimate(float(data.mean()), float(low), float(high))


def compare(scored: Mapping[str, Path], num_bootstrap: int, seed: int) -> dict[str, dict[str, Estimate]]:
    """Return per model its reward, and its gain over the model before it on the same prompts.

    scored: finished scoring steps by model name, in the order of comparison.
    """
    means = {name: prompt_means(folder) for name, folder in scored.items()}
    names = list(means)
    shared = sorted(set.intersection(*(set(of_model) for of_model in means.values())))
    if not shared:
        raise DataError(f"the models {names} share no evaluation prompt")
    table: dict[str, dict[str, Estimate]] = {}
    for position, name in enumerate(names):
        values = [means[name][prompt_id] for prompt_id in shared]
        table[name] = {"reward": estimate(values, num_bootstrap, seed)}
        if position:
            before = means[names[position - 1]]
            gains = [value - before[prompt_id] for value, prompt_id in zip(values, shared, strict=True)]
            table[name]["gain"] = estimate(gains, num_bootstrap, seed)
    return table
