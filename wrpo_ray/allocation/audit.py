"""What the policy loses against the full grid, by prompts that it has not learned from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from wrpo_ray.allocation.gain import first_samples, full_grid
from wrpo_ray.allocation.table import RewardTable
from wrpo_ray.schema import stable_hash

NUM_BOOTSTRAP = 2000


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % confidence interval, by resampling prompts."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"


@dataclass(frozen=True)
class Audit:
    """Of prompts with a reward: shares of the same y_ws, of its source, of its reward; regret in units of the reward.

    cost_share: of the full grid's, without what pilot and audit take on top.
    """

    num_prompts: int
    same_response: Interval
    same_source: Interval
    same_reward: Interval
    regret: Interval
    gain_share: Interval
    token_share: float
    cost_share: float


def audit(
    table: RewardTable, counts: np.ndarray, unit_costs: np.ndarray, seed: int, num_bootstrap: int = NUM_BOOTSTRAP
) -> Audit:
    """Compare the first `counts` [prompts, sources] samples with all of them; `table` holds audit prompts in full."""
    adaptive = table.masked(first_samples(table, counts))
    grid = full_grid(table)
    usable = grid.usable
    of_full, of_adaptive = choice(table)[usable], choice(adaptive)[usable]
    per_source = table.rewards.shape[2]
    regret = grid.regret(adaptive.best())
    gain = grid.best - grid.random
    sums = np.column_stack([
        of_full == of_adaptive,
        of_full // per_source == of_adaptive // per_source,
        (adaptive.best()[usable] == grid.best),
        regret,
        gain,
    ]).astype(float)  # fmt: skip
    names: list[Callable[[np.ndarray], float]] = [
        lambda m: m[0], lambda m: m[1], lambda m: m[2], lambda m: m[3], lambda m: 1 - m[3] / m[4] if m[4] > 0 else 1.0,
    ]  # fmt: skip
    found = _intervals(sums, names, seed, num_bootstrap)
    costs, own_costs = (each.tokens * unit_costs[:, None] for each in (table, adaptive))
    return Audit(
        int(usable.sum()), *found,
        token_share=float(adaptive.tokens.sum() / max(table.tokens.sum(), 1)),
        cost_share=float(own_costs.sum() / max(costs.sum(), 1e-300)),
    )  # fmt: skip


def choice(table: RewardTable) -> np.ndarray:
    """Return y_ws of each prompt as source * samples + sample_index, -1 where there is none: [prompts].

    Ties as in wrpo_ray.selection: the source that the config lists first, then the lowest sample_index.
    """
    flat = np.where(table.present, table.rewards, -np.inf).reshape(len(table.prompt_ids), -1)
    return np.where(table.present.any(axis=(1, 2)), flat.argmax(axis=1), -1)


def _intervals(
    columns: np.ndarray, functions: list[Callable[[np.ndarray], float]], seed: int, num_bootstrap: int
) -> list[Interval]:
    """Return each function of the columns' means with its percentile-bootstrap interval."""
    generator = np.random.default_rng(stable_hash("audit", seed))
    means = np.array([
        columns[generator.integers(0, len(columns), len(columns))].mean(axis=0) for _ in range(num_bootstrap)
    ])  # fmt: skip
    found = []
    for function in functions:
        low, high = np.percentile([function(mean) for mean in means], [2.5, 97.5])
        found.append(Interval(float(function(columns.mean(axis=0))), float(low), float(high)))
    return found
