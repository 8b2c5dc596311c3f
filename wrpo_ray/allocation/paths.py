"""In which order further responses to a prompt are worth their cost, and up to where.

Weitzman's rule (Optimal Search for the Best Alternative, Econometrica 1979) opens boxes in order of their reservation
values and stops once the best reward is above those of all others. Here several boxes are opened at once, a model stays
loaded for all prompts, so the next response is the one that adds most to the expected best reward per cost, given those
that are to be drawn already; a path ends where this falls below a price.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from wrpo_ray.allocation.model import RewardModel, posterior
from wrpo_ray.allocation.normal import cdf, nodes
from wrpo_ray.allocation.table import RewardTable

_NUM_NODES, _NUM_POINTS, _REACH = 7, 24, 3.5
_MAX_VALUES = 4_000_000
NO_SOURCE = -1


@dataclass(frozen=True)
class Paths:
    """Arrays of [prompts, steps]: the source of each further response, NO_SOURCE after the last one, and its worth.

    worth: expected rise of the best reward per cost; it never rises along a path.
    """

    source: np.ndarray
    worth: np.ndarray

    def counts(self, price: float, num_sources: int) -> np.ndarray:
        """Return how many further responses are worth `price` or more: integers [prompts, sources]."""
        wanted = (self.source != NO_SOURCE) & (self.worth >= price)
        found = np.zeros((len(self.source), num_sources), dtype=np.int64)
        rows, steps = np.nonzero(wanted)
        np.add.at(found, (rows, self.source[rows, steps]), 1)
        return found


def paths(model: RewardModel, table: RewardTable, costs: np.ndarray, price: float = 0.0) -> Paths:
    """Return the paths of all prompts of `table`, down to `price`. costs: of one response of each source."""
    left = _left(table)
    num_steps = int(left.sum(axis=1).max(initial=0))
    source = np.full((len(left), num_steps), NO_SOURCE, dtype=np.int16)
    worth = np.zeros((len(left), num_steps))
    mean, spread = posterior(model, table)
    best = table.best()
    for rows in _chunks(len(left), left.shape[1] * _NUM_POINTS * (_NUM_NODES + max(table.num_samples))):
        walk = _Walk(model, mean[rows], spread[rows], best[rows], left[rows], costs)
        walk.go(source[rows], worth[rows], price)
    return Paths(source, worth)


def _left(table: RewardTable) -> np.ndarray:
    """Return how many responses can still be drawn: [prompts, sources]; none from a source that refused the prompt."""
    num_drawn = table.drawn.sum(axis=2)
    refused = (num_drawn > 0) & ~(table.tokens > 0).any(axis=2)
    return np.where(refused, 0, np.asarray(table.num_samples) - num_drawn)


def _chunks(num_rows: int, values_per_row: int) -> Iterator[slice]:
    size = max(1, _MAX_VALUES // values_per_row)
    return (slice(start, start + size) for start in range(0, num_rows, size))


class _Walk:
    """The greedy walk of some prompts. Expectations are integrals over rewards above the best one so far."""

    def __init__(
        self, model: RewardModel, mean: np.ndarray, spread: np.ndarray, best: np.ndarray, left: np.ndarray,
        costs: np.ndarray,
    ) -> None:  # fmt: skip
        self.left, self.costs, self.rows = left, costs, np.arange(len(left))
        low, high = _bounds(model, mean, spread, best)
        points = low[:, None] + (high - low)[:, None] * np.linspace(0.0, 1.0, _NUM_POINTS)
        # Trapezoidal rule.
        self.weights = np.repeat((high - low)[:, None] / (_NUM_POINTS - 1), _NUM_POINTS, axis=1)
        self.weights[:, [0, -1]] /= 2
        self.below = _below(model.noise, mean, spread, points, int(left.max(initial=0)))
        self.taken = np.zeros(left.shape, dtype=np.int64)

    def go(self, source: np.ndarray, worth: np.ndarray, price: float) -> None:
        """Fill `source` and `worth`, arrays of [prompts, steps]."""
        # Probability that nothing that is to be drawn is above each point.
        beaten_by_none = np.ones_like(self.weights)
        limit = np.full(len(self.rows), np.inf)
        for step in range(source.shape[1]):
            ratio = self._ratio()
            gain = np.einsum("pg,psg->ps", self.weights * beaten_by_none, 1.0 - ratio) / self.costs
            gain = np.where(self.taken < self.left, gain, -np.inf)
            chosen = gain.argmax(axis=1)
            value = gain[self.rows, chosen]
            limit = np.minimum(limit, np.where(np.isfinite(value), np.maximum(value, 0.0), 0.0))
            source[:, step] = np.where(np.isfinite(value), chosen, NO_SOURCE)
            worth[:, step] = limit
            if not (limit >= price).any():
                break
            beaten_by_none *= ratio[self.rows, chosen]
            self.taken[self.rows, chosen] += np.isfinite(value)

    def _ratio(self) -> np.ndarray:
        """Return by what factor one more response lowers the probability below a point: [prompts, sources, points]."""
        rows, sources = self.rows[:, None], np.arange(len(self.costs))[None]
        following = np.minimum(self.taken + 1, self.below.shape[2] - 1)
        return self.below[rows, sources, following] / np.maximum(self.below[rows, sources, self.taken], 1e-30)


def _bounds(
    model: RewardModel, mean: np.ndarray, spread: np.ndarray, best: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return between which rewards something can be gained: two arrays of [prompts]."""
    reach = _REACH * np.sqrt(spread**2 + model.noise**2)
    # Without any reward so far, the first one is worth what it is above the lowest one to be expected.
    low = np.where(np.isfinite(best), best, (mean - reach).min(axis=1))
    return low, np.maximum(np.minimum((mean + reach).max(axis=1), model.highest), low)


def _below(noise: np.ndarray, mean: np.ndarray, spread: np.ndarray, points: np.ndarray, most: int) -> np.ndarray:
    """Return the probability that 0 .. `most` responses are all below a point: [prompts, sources, number, points]."""
    places, weights = nodes(_NUM_NODES)
    levels = mean[:, :, None] + spread[:, :, None] * places
    one = cdf((points[:, None, None, :] - levels[:, :, :, None]) / noise[:, None, None])
    found = np.empty((*mean.shape, most + 1, points.shape[1]))
    power = np.ones_like(one)
    for number in range(most + 1):
        found[:, :, number] = np.einsum("psng,n->psg", power, weights)
        power = power * one
    return found
