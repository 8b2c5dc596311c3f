"""Which prompts are drawn in full: chosen by a hash, so that neither order nor number of the prompts matters."""

from __future__ import annotations

from collections.abc import Iterable
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


def slices_of(prompt_ids: Iterable[str], pilot_fraction: float, audit_fraction: float, seed: int) -> Slices:
    """Return the slices of all prompts; raises ConfigError when one has too few prompts to learn anything from."""
    slices = drawn_slices(prompt_ids, pilot_fraction, audit_fraction, seed)
    for name, chosen in (("pilot", slices.pilot), ("audit", slices.audit)):
        if chosen.sum() < MIN_PROMPTS:
            raise ConfigError(
                f"sampling.allocation.{name}_fraction gives {chosen.sum()} of {len(chosen)} prompts,"
                f" at least {MIN_PROMPTS} are needed",
                code="WRPO-C044",
                help="raise it, give more prompts, or turn allocation off",
            )
    return slices


def drawn_slices(prompt_ids: Iterable[str], pilot_fraction: float, audit_fraction: float, seed: int) -> Slices:
    """Return the slices of some prompts, which are the same as among all prompts."""
    hashes = (stable_hash("allocation", seed, prompt_id) / 2**64 for prompt_id in prompt_ids)
    places = np.fromiter(hashes, dtype=np.float64)
    audit = places < audit_fraction
    return Slices(~audit & (places < audit_fraction + pilot_fraction), audit)
