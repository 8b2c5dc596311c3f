"""What a run says about its allocation: numbers for its summary, and sentences for whoever reads it."""

from __future__ import annotations

import dataclasses
from typing import Any

from wrpo_ray.allocation.audit import Audit
from wrpo_ray.allocation.policy import Decision

# Of the full grid's cost: above it, data that depends on a policy is a poor bargain.
LITTLE_SAVED = 0.75


def summary(decision: Decision, audited: Audit, target: float) -> dict[str, Any]:
    """Return JSON values: what was decided and foreseen, what the audit slice says, and `findings`."""
    return {
        **decision.summary,
        "audit": dataclasses.asdict(audited),
        "target_kept": target_kept(audited, target),
        "findings": findings(decision, audited, target),
    }


def target_kept(audited: Audit, target: float) -> str:
    """Return what the audit's confidence interval says about the target: yes, no or unclear."""
    if audited.gain_share.low >= target:
        return "yes"
    return "no" if audited.gain_share.high < target else "unclear"


def findings(decision: Decision, audited: Audit, target: float) -> list[str]:
    """Return what a user should know before the data is trained on; nothing when all is as it was asked for."""
    found = []
    cost = max(decision.summary["expected_cost_share"], audited.cost_share)
    if cost > LITTLE_SAVED:
        found.append(
            f"little is saved: {cost:.0%} of the full grid's cost is needed; no source can be told to be worse on any"
            " prompt by few samples, and the full grid (no allocation) is the plain choice"
        )
    if not decision.summary["target_reached"]:
        found.append(f"the pilot does not keep {target:.1%} of the gain within sampling.allocation.max_cost_share")
    if target_kept(audited, target) == "no":
        found.append(f"the audit keeps {audited.gain_share} of the full grid's gain, {target:.1%} was asked for")
    return found
