"""The two loads of a source: what is drawn first, and what is drawn after that, by what the first responses gave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wrpo_ray.allocation.gain import first_samples
from wrpo_ray.allocation.halving import halve
from wrpo_ray.allocation.model import fit
from wrpo_ray.allocation.paths import paths
from wrpo_ray.allocation.slices import Slices
from wrpo_ray.allocation.table import RewardTable
from wrpo_ray.allocation.tuning import replays, tune
from wrpo_ray.config_allocation import AllocationConfig


@dataclass(frozen=True)
class Decision:
    """counts: samples of each source for each prompt, those of the first load included: [prompts, sources].

    For prompts of the audit slice they are what the policy would have drawn; those of the pilot are drawn in full.
    """

    counts: np.ndarray
    summary: Mapping[str, Any]

    def further(self, table: RewardTable, slices: Slices) -> np.ndarray:
        """Return how many samples of each source are still to be drawn: integers [prompts, sources]."""
        further = np.maximum(self.counts - table.drawn.sum(axis=2), 0)
        return np.where(slices.rest[:, None], further, 0)


def first_counts(policy: str, num_samples: Sequence[int], slices: Slices) -> np.ndarray:
    """Return how many samples of each source the first load draws for each prompt: integers [prompts, sources]."""
    looks = np.minimum(num_samples, 1 if policy == "waves" else 0)
    return np.where(slices.full[:, None], np.asarray(num_samples), looks)


def decide(config: AllocationConfig, table: RewardTable, slices: Slices, unit_costs: np.ndarray) -> Decision:
    """Return what to draw in all, from a table that holds the first load. unit_costs: of one token of each source.

    Nothing that the audit slice holds beyond what the first load would draw of any prompt is looked at.
    """
    pilot = table.rows(slices.pilot)
    # Pilot and audit are drawn in full whatever is decided.
    in_full = float(slices.full.mean())
    limit = max(0.0, (config.max_cost_share - in_full) / (1.0 - in_full))
    if config.policy == "halving":
        counts, summary = _halving(config.target, limit, pilot, unit_costs)
    else:
        counts, summary = _waves(config.target, limit, table, slices, unit_costs)
    counts = np.broadcast_to(counts, table.drawn.shape[:2]).copy()
    counts[slices.pilot] = table.num_samples
    expected = in_full + (1.0 - in_full) * summary["expected_cost_share"]
    return Decision(counts, summary | {"policy": config.policy, "expected_cost_share": expected})


def _costs(pilot: RewardTable, unit_costs: np.ndarray) -> np.ndarray:
    """Return what one response of each source costs on average: [sources]."""
    per_response = pilot.tokens.sum(axis=(0, 2)) / np.maximum(pilot.drawn.sum(axis=(0, 2)), 1)
    # A source without any token (all its prompts set aside) is free, and free boxes are opened for ever.
    return np.maximum(per_response, 1.0) * unit_costs


def _halving(
    target: float, limit: float, pilot: RewardTable, unit_costs: np.ndarray
) -> tuple[np.ndarray, dict[str, Any]]:
    kept = halve(pilot, _costs(pilot, unit_costs) * pilot.num_samples, target, limit)
    counts = np.zeros(len(pilot.sources), dtype=np.int64)
    counts[list(kept.sources)] = np.asarray(pilot.num_samples)[list(kept.sources)]
    return counts, {
        "kept_sources": [pilot.sources[number] for number in kept.sources],
        "expected_gain_share": kept.gain_share,
        "expected_cost_share": kept.cost_share,
        "target_reached": kept.target_reached,
    }


def _waves(
    target: float, limit: float, table: RewardTable, slices: Slices, unit_costs: np.ndarray
) -> tuple[np.ndarray, dict[str, Any]]:
    pilot = table.rows(slices.pilot)
    costs = _costs(pilot, unit_costs)
    looks = table.masked(first_samples(table, np.ones(table.drawn.shape[:2], dtype=np.int64)))
    model = fit(looks.rows(slices.rest), pilot)
    full_cost = float((pilot.tokens * unit_costs[:, None]).sum())
    tuned = tune(pilot, replays(model, pilot, costs, unit_costs), full_cost, target, limit)
    others = np.flatnonzero(~slices.pilot)
    chosen = paths(model, looks.rows(others), costs, tuned.price).counts(tuned.price, len(costs))
    counts = np.tile(np.asarray(table.num_samples), (len(table.prompt_ids), 1))
    counts[others] = looks.drawn[others].sum(axis=2) + chosen
    return counts, {
        # JSON has no infinity: without a price, nothing but the first responses is drawn.
        "price": tuned.price if np.isfinite(tuned.price) else None,
        "expected_gain_share": tuned.gain_share,
        "expected_cost_share": tuned.cost_share,
        "target_reached": tuned.target_reached,
    }
