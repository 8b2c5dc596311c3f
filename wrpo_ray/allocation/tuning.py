"""The price at which waves stop: the highest one that keeps enough of the gain when it is replayed on the pilot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wrpo_ray.allocation.gain import first_samples, full_grid
from wrpo_ray.allocation.model import RewardModel
from wrpo_ray.allocation.paths import NO_SOURCE, Paths, paths
from wrpo_ray.allocation.table import RewardTable

_NUM_PRICES = 200


@dataclass(frozen=True)
class Tuned:
    """The price, and what it came to on the pilot; cost_share: of the full grid's."""

    price: float
    gain_share: float
    cost_share: float
    target_reached: bool


@dataclass(frozen=True)
class Replay:
    """Best reward and cost after each step of the paths: [prompts, steps + 1]; worth of the steps: [prompts, steps]."""

    best: np.ndarray
    cost: np.ndarray
    worth: np.ndarray

    def at(self, price: float) -> tuple[np.ndarray, float]:
        """Return the best reward of each prompt, [prompts], and the whole cost when the paths end at `price`."""
        steps = (self.worth >= price).sum(axis=1)
        rows = np.arange(len(steps))
        return self.best[rows, steps], float(self.cost[rows, steps].sum())


def replays(model: RewardModel, pilot: RewardTable, costs: np.ndarray, unit_costs: np.ndarray) -> list[Replay]:
    """Return what every path comes to on the pilot, once with each sample in the place of the first one.

    Samples are exchangeable, so all of these could have happened; their mean tells more than one of them.
    """
    found = []
    for shift in range(max(pilot.num_samples)):
        rotated = pilot.rotated(shift)
        looks = rotated.masked(first_samples(rotated, np.ones(rotated.drawn.shape[:2], dtype=np.int64)))
        found.append(_replay(rotated, looks, paths(model, looks, costs), unit_costs))
    return found


def tune(pilot: RewardTable, replayed: Sequence[Replay], full_cost: float, target: float, limit: float) -> Tuned:
    """Return the price for `target` or, where that costs more than the share `limit`, the lowest one that does not."""
    grid = full_grid(pilot)
    steps = np.concatenate([replay.worth[np.isfinite(replay.worth)] for replay in replayed])
    prices = np.unique(np.quantile(steps, np.linspace(0.0, 1.0, _NUM_PRICES)))[::-1].tolist() if len(steps) else []
    tuned: Tuned | None = None
    for price in (np.inf, *prices, 0.0):
        ends = [replay.at(price) for replay in replayed]
        cost_share = sum(cost for _, cost in ends) / len(ends) / full_cost
        if tuned is not None and cost_share > limit:
            break
        regret = np.mean([grid.regret(best) for best, _ in ends], axis=0)
        tuned = Tuned(float(price), grid.share(regret), cost_share, grid.keeps(regret, target))
        if tuned.target_reached:
            break
    assert tuned is not None
    return tuned


def _replay(pilot: RewardTable, looks: RewardTable, found: Paths, unit_costs: np.ndarray) -> Replay:
    num_prompts, num_steps = found.source.shape
    rows, drawn = np.arange(num_prompts), looks.drawn.sum(axis=2)
    best, cost = np.empty((num_prompts, num_steps + 1)), np.empty((num_prompts, num_steps + 1))
    best[:, 0] = looks.best()
    cost[:, 0] = (looks.tokens * unit_costs[:, None]).sum(axis=(1, 2))
    for step in range(num_steps):
        source = found.source[:, step]
        real = source != NO_SOURCE
        number = np.minimum(drawn[rows, source], pilot.rewards.shape[2] - 1)
        there = real & pilot.present[rows, source, number]
        best[:, step + 1] = np.maximum(best[:, step], np.where(there, pilot.rewards[rows, source, number], -np.inf))
        paid = np.where(real, pilot.tokens[rows, source, number] * unit_costs[source], 0.0)
        cost[:, step + 1] = cost[:, step] + paid
        drawn[rows, source] += real
    return Replay(best, cost, np.where(found.source != NO_SOURCE, found.worth, -np.inf))
