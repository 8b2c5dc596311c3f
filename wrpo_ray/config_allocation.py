"""The section `sampling.allocation`: which part of the grid of sources, prompts and samples is drawn."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from wrpo_ray.config_base import Frozen, PositiveFloat, Slug

SliceFraction = Annotated[float, Field(gt=0.0, lt=0.5)]
Share = Annotated[float, Field(gt=0.0, le=1.0)]


class AllocationConfig(Frozen):
    """Draw less than all samples of all sources; it changes the data, and the run says by how much.

    Either way a source is loaded twice at most: for the first responses, and for those that were decided on.
    """

    policy: Literal["halving", "waves"] = "waves"
    """halving: leave out sources that are not worth their cost. waves: one response of each, then more by prompt."""
    pilot_fraction: SliceFraction = 0.04
    """Share of the prompts that are drawn in full to tune the policy on."""
    audit_fraction: SliceFraction = 0.02
    """Share of the prompts that are drawn in full to tell what the policy loses; it never learns from them."""
    target: Share = 0.99
    """Share of the full grid's gain to keep: mean best reward above the mean reward of one random response."""
    max_cost_share: Share = 1.0
    """Of the full grid's cost, pilot and audit included, as the pilot foresees it; too little misses the target."""
    token_costs: dict[Slug, PositiveFloat] = {}
    """What a token of a source costs, by its name and in any unit (GPU-seconds, a price); 1 for those not named."""


class RunSamplingConfig(Frozen):
    """How the run's samples are spread over sources and prompts; how one is drawn stands with each model."""

    allocation: AllocationConfig | None = None
    """Draw a part of the grid; none draws all of it."""
