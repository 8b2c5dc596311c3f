"""Which prompts are drawn in full: chosen by a hash, so that neither order nor number of the prompts matters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wrpo_ray.errors import ConfigError
from wrpo_ray.schema import stable_hash

MIN_PROMPTS = 20


@dataclass(frozen=True)
class Slices:
    """Boolean arrays of [prompts] that share no prompt; what is in neither is `rest`."""

    pilot: np.ndarray
    audit: np.ndarray

    @property
    def full(self) -> np.ndarray:
        """Prompts that every source answers in full."""
        return self.pilot | self.audit

    @property
    def rest(self) -> np.ndarray:
        """Prompts that the policy decides about."""
        return ~self.full


def slices_of(prompt_ids: Sequence[str], pilot_fraction: float, audit_fraction: float, seed: int) -> Slices:
    """Return the slices of `prompt_ids`; raises ConfigError when one has too few prompts to learn anything from."""
    places = np.array([stable_hash("allocation", seed, prompt_id) / 2**64 for prompt_id in prompt_ids])
    audit = places < audit_fraction
    pilot = ~audit & (places < audit_fraction + pilot_fraction)
    for name, chosen in (("pilot", pilot), ("audit", audit)):
        if chosen.sum() < MIN_PROMPTS:
            raise ConfigError(
                f"sampling.allocation.{name}_fraction gives {chosen.sum()} of {len(places)} prompts,"
                f" at least {MIN_PROMPTS} are needed",
                code="WRPO-C044",
                help="raise it, give more prompts, or turn allocation off",
            )
    return Slices(pilot, audit)
