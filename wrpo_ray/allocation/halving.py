"""Sources that are worth their cost: the least worth is left out, again and again, as the pilot allows.

What a source adds is E[max over all] - E[max without it], which depends on the others: two sources that are good at the
same prompts add nothing each while the other one is there. So it is computed anew after each one that goes.
Successive halving in its first form (Karnin et al., ICML 2013) gives the survivors of each round more prompts; here
all rounds share one pilot, because each further one would load every surviving model once more.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wrpo_ray.allocation.gain import FullGrid, full_grid
from wrpo_ray.allocation.table import RewardTable


@dataclass(frozen=True)
class Kept:
    """The sources that stay (numbers, ascending), and what that came to on the pilot."""

    sources: tuple[int, ...]
    gain_share: float
    cost_share: float
    target_reached: bool


def halve(pilot: RewardTable, costs: np.ndarray, target: float, max_cost_share: float) -> Kept:
    """Return the sources to keep for `target`, and fewer when those cost more than `max_cost_share`.

    pilot: drawn in full. costs: of all responses of each source to a prompt, on average.
    """
    grid = full_grid(pilot)
    of_source = np.where(pilot.present, pilot.rewards, -np.inf).max(axis=2)
    kept = list(range(len(pilot.sources)))
    while len(kept) > 1 and (going := _goes(of_source, kept, costs, grid, target)) is not None:
        kept.remove(going)
    while len(kept) > 1 and costs[kept].sum() > max_cost_share * costs.sum():
        kept.remove(_by_worth(of_source, kept, costs)[0])
    regret = grid.regret(of_source[:, kept].max(axis=1))
    share = float(costs[kept].sum() / costs.sum())
    return Kept(tuple(kept), grid.share(regret), share, len(kept) == len(costs) or grid.keeps(regret, target))


def _goes(of_source: np.ndarray, kept: list[int], costs: np.ndarray, grid: FullGrid, target: float) -> int | None:
    """Return the source that is worth least of those without which the target is still kept."""
    for source in _by_worth(of_source, kept, costs):
        others = [other for other in kept if other != source]
        if grid.keeps(grid.regret(of_source[:, others].max(axis=1)), target):
            return source
    return None


def _by_worth(of_source: np.ndarray, kept: list[int], costs: np.ndarray) -> list[int]:
    """Return `kept`, the least marginal gain per cost first; of equal ones the dearest, then the last."""
    gains = marginal_gains(of_source[:, kept])
    order = sorted((gain / costs[source], -costs[source], -source) for source, gain in zip(kept, gains, strict=True))
    return [-source for _, _, source in order]


def marginal_gains(of_source: np.ndarray) -> np.ndarray:
    """Return E[max] - E[max without it] of each source, [sources]; of_source: [prompts, sources], -inf where none."""
    ordered = np.sort(of_source, axis=1)
    first, second = ordered[:, -1], ordered[:, -2]
    lost = np.where(of_source == first[:, None], (first - second)[:, None], 0.0)
    # Where a source alone has a reward, its loss is no number; such prompts say nothing about how much.
    usable = np.isfinite(first) & np.isfinite(second)
    return lost[usable].mean(axis=0) if usable.any() else np.zeros(of_source.shape[1])
