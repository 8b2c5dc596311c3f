"""How much of the full grid's gain is kept.

Rewards have no zero of their own, so a share of a reward means nothing. Here 0 is the mean reward of one response drawn
at random from the grid, 1 is the mean best reward of the full grid: share = (adaptive - random) / (full - random).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wrpo_ray.allocation.table import RewardTable

# One-sided 90 %: a policy is taken only when the pilot says so clearly.
_CAUTION = 1.2816


@dataclass(frozen=True)
class FullGrid:
    """Per prompt that has a reward: its best reward, and the mean over all of its responses; arrays of [usable]."""

    usable: np.ndarray
    best: np.ndarray
    random: np.ndarray

    def regret(self, best: np.ndarray) -> np.ndarray:
        """Return what `best` [prompts] is below the full grid, per usable prompt.

        A prompt whose adaptive choice has no reward at all falls back to a random response, so its regret is finite.
        """
        own = best[self.usable]
        return self.best - np.where(np.isfinite(own), own, self.random)

    def share(self, regret: np.ndarray) -> float:
        """Return the share of the gain that is kept with this regret; 1 where there is nothing to gain."""
        gain = (self.best - self.random).mean() if len(self.best) else 0.0
        return float(1.0 - regret.mean() / gain) if gain > 0 else 1.0

    def keeps(self, regret: np.ndarray, target: float) -> bool:
        """Tell whether the share `target` of the gain is kept, with the caution that few prompts call for.

        The share is a ratio of means; mean(regret - (1 - target) * gain) <= 0 says the same and has a plain error bar.
        """
        excess = regret - (1.0 - target) * (self.best - self.random)
        error = excess.std(ddof=1) / np.sqrt(len(excess)) if len(excess) > 1 else np.inf
        return bool(excess.mean() + _CAUTION * error <= 1e-12)


def full_grid(table: RewardTable) -> FullGrid:
    """Return what the full grid gives; `table` holds all of it."""
    counts = table.present.sum(axis=(1, 2))
    usable = counts > 0
    random = table.rewards.sum(axis=(1, 2))[usable] / counts[usable]
    return FullGrid(usable, table.best()[usable], random)


def first_samples(table: RewardTable, counts: np.ndarray) -> np.ndarray:
    """Return which places hold the first `counts` [prompts, sources] samples: a boolean [prompts, sources, samples]."""
    return (np.arange(table.rewards.shape[2]) < counts[:, :, None]) & table.within()
