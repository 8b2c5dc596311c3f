"""A policy on a recorded table: it is shown what it asks for, and what it asked for is counted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wrpo_ray.allocation.audit import Audit, audit
from wrpo_ray.allocation.gain import first_samples
from wrpo_ray.allocation.policy import Decision, decide, first_counts
from wrpo_ray.allocation.slices import slices_of
from wrpo_ray.allocation.table import RewardTable
from wrpo_ray.config_allocation import AllocationConfig


@dataclass(frozen=True)
class Replayed:
    """whole: against the full grid, over all prompts, with all that pilot and audit take. audit: as a run reports it.

    loads: how often each source's model is loaded.
    """

    decision: Decision
    whole: Audit
    audit: Audit
    loads: tuple[int, ...]


def replay(
    config: AllocationConfig, recorded: RewardTable, unit_costs: np.ndarray, seed: int, num_bootstrap: int = 500
) -> Replayed:
    """Return what the policy does with a table that is `recorded` in full."""
    slices = slices_of(recorded.prompt_ids, config.pilot_fraction, config.audit_fraction, seed)
    first = first_counts(config.policy, recorded.num_samples, slices)
    revealed = recorded.masked(first_samples(recorded, first))
    decision = decide(config, revealed, slices, unit_costs)
    further = decision.further(revealed, slices)
    loads = (first.sum(axis=0) > 0).astype(int) + (further.sum(axis=0) > 0)
    whole = audit(recorded, first + further, unit_costs, seed, num_bootstrap)
    audited = audit(recorded.rows(slices.audit), decision.counts[slices.audit], unit_costs, seed, num_bootstrap)
    return Replayed(decision, whole, audited, tuple(int(count) for count in loads))
