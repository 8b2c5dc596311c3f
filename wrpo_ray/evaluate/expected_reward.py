"""Expected reward of models on held-out prompts, with confidence intervals over prompts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wrpo_ray.errors import DataError
from wrpo_ray.evaluate.bootstrap import mean_interval


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95 % confidence interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def estimate(values: Sequence[float], num_bootstrap: int, seed: int) -> Estimate:
    """Return mean and percentile-bootstrap interval of `values`, resampled with replacement `num_bootstrap` times."""
    data = np.asarray(values, dtype=np.float64)
    return Estimate(float(data.mean()), *mean_interval(data, num_bootstrap, seed))


@dataclass(frozen=True)
class Comparison:
    """Rewards of models on the prompts that all of them have one for, and the number of prompts that this leaves out.

    A prompt that one model fails on counts for none: leaving it out for that model alone would favour it.
    """

    models: dict[str, dict[str, Estimate]]
    prompt_ids: tuple[str, ...]
    num_prompts_left_out: int

    @property
    def num_prompts(self) -> int:
        return len(self.prompt_ids)


def compare(
    means: Mapping[str, Mapping[str, float]], names: Sequence[str], num_prompts: int, num_bootstrap: int, seed: int
) -> Comparison:
    """Return per model its reward, and its gain over the model before it in `names` on the same prompts.

    means: mean rewards by model and prompt_id, of the responses to `num_prompts` prompts.
    """
    shared = sorted(set.intersection(*(set(means.get(name, {})) for name in names)))
    if not shared:
        raise DataError(
            f"the models {', '.join(names)} have no prompt with a finite reward in common",
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
    return Comparison(table, tuple(shared), num_prompts - len(shared))


def shown(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as JSON values, for the summary of its step."""
    models = {
        name: {what: dataclasses.asdict(value) for what, value in values.items()}
        for name, values in comparison.models.items()
    }
    counts = {"num_prompts": comparison.num_prompts, "num_prompts_left_out": comparison.num_prompts_left_out}
    return {"models": models, **counts}
