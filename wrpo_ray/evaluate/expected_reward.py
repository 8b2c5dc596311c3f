"""Expected reward of models on held-out prompts, with confidence intervals over prompts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wrpo_ray.errors import DataError
from wrpo_ray.schema import ScoredResponse, stable_hash
from wrpo_ray.storage.location import Location
from wrpo_ray.storage.tables import iter_rows


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95 % confidence interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def prompt_means(scored: Location) -> dict[str, dict[str, float]]:
    """Return the mean finite reward of every prompt that has one, by model, from a scoring step of several models."""
    rewards: dict[str, dict[str, list[float]]] = {}
    for rows in iter_rows(scored, ScoredResponse):
        for row in rows:
            if math.isfinite(row.reward):
                rewards.setdefault(row.source, {}).setdefault(row.prompt_id, []).append(row.reward)
    return {
        model: {prompt_id: sum(values) / len(values) for prompt_id, values in of_model.items()}
        for model, of_model in rewards.items()
    }


def estimate(values: Sequence[float], num_bootstrap: int, seed: int) -> Estimate:
    """Return mean and percentile-bootstrap interval of `values`, resampled with replacement `num_bootstrap` times."""
    data = np.asarray(values, dtype=np.float64)
    generator = np.random.default_rng(stable_hash("bootstrap", seed))
    means = data[generator.integers(0, len(data), size=(num_bootstrap, len(data)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Estimate(float(data.mean()), float(low), float(high))


@dataclass(frozen=True)
class Comparison:
    """Rewards of models on the prompts that all of them have one for, and the number of prompts that this leaves out.

    A prompt that one model fails on counts for none: leaving it out for that model alone would favour it.
    """

    models: dict[str, dict[str, Estimate]]
    num_prompts: int
    num_prompts_left_out: int


def compare(scored: Location, names: Sequence[str], num_prompts: int, num_bootstrap: int, seed: int) -> Comparison:
    """Return per model its reward, and its gain over the model before it in `names` on the same prompts.

    scored: a finished scoring step that holds the responses of all models in `names` to `num_prompts` prompts.
    """
    means = prompt_means(scored)
    shared = sorted(set.intersection(*(set(means.get(name, {})) for name in names)))
    if not shared:
        raise DataError(
            f"{scored}: the models {', '.join(names)} have no prompt with a finite reward in common",
            code="WRPO-D032",
            help="see the quarantine folder of the step evaluation-score",
        )
    table: dict[str, dict[str, Estimate]] = {}
    for position, name in enumerate(names):
        values = [means[name][prompt_id] for prompt_id in shared]
        table[name] = {"reward": estimate(values, num_bootstrap, seed)}
        if position:
            before = means[names[position - 1]]
            gains = [value - before[prompt_id] for value, prompt_id in zip(values, shared, strict=True)]
            table[name]["gain"] = estimate(gains, num_bootstrap, seed)
    return Comparison(table, len(shared), num_prompts - len(shared))
