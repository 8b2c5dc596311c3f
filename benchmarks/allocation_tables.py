"""Reward tables with known causes: made, not recorded from models; each regime states what it is made of.

reward[p, i, k] = difficulty[p] + quality[i] + taste[p, i] + specialty[p, i] + noise[p, i, k], where

    difficulty  normal, `difficulty`; common to all sources, so it changes no choice
    quality     one number per source; for the paper's regimes fitted until the sources win as often as in its Table 1
    taste       normal, standard deviation 1 (the unit of all rewards): half of its variance from 3 hidden properties of
                the prompt that sources like more or less, half a source's own
    specialty   `bonus` on the share `domain` of the prompts, for the last source alone
    noise       between samples of one source to one prompt: standard deviation `noise`; Student's t where `tail` gives
                degrees of freedom; times a log-normal factor of the prompt (`uneven`)

Responses have log-normal lengths. A share `missing` of the rewards is set aside. `steps` rounds rewards (ties);
`verifier` makes them 0 or 1 by whether they are above 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wrpo_ray.allocation.table import RewardTable

# Share of prompts on which a source is best, in percent, and its parameters per token in billions (of mixtures: active
# ones): arXiv 2412.03187, Tables 1 and 11; model cards.
PAPER = (
    (28.24, 123.0), (15.45, 27.0), (12.38, 72.0), (9.92, 70.0), (9.91, 9.0),
    (7.54, 20.0), (6.20, 21.0), (4.01, 21.0), (3.86, 34.0), (2.50, 14.0),
)  # fmt: skip
_NUM_TASTES, _SHARED = 3, 0.5


@dataclass(frozen=True)
class Regime:
    """See the module; costs are per token, `quality` None asks for the paper's shares."""

    name: str
    quality: tuple[float, ...] | None
    costs: tuple[float, ...]
    taste: float = 1.0
    noise: float = 0.5
    difficulty: float = 2.0
    num_samples: int = 5
    bonus: float = 0.0
    domain: float = 0.0
    tail: float | None = None
    uneven: float = 0.0
    missing: float = 0.01
    steps: float | None = None
    verifier: bool = False


_PAPER_COSTS = tuple(parameters for _, parameters in PAPER)
_SPREAD = tuple(np.linspace(0.6, -1.2, 10))
REGIMES = (
    Regime("paper, noise 0.25", None, _PAPER_COSTS, noise=0.25),
    Regime("paper, noise 0.5", None, _PAPER_COSTS),
    Regime("paper, noise 1", None, _PAPER_COSTS, noise=1.0),
    Regime("20 sources, half weak", (*np.linspace(0.5, -0.5, 10), *np.linspace(-1.5, -2.5, 10)), (1.0,) * 20),
    Regime("50 sources", tuple(np.linspace(0.7, -2.0, 50)), tuple(np.tile([1.0, 3.0, 9.0, 2.0, 5.0], 10))),
    Regime("best is dearest", _SPREAD, tuple(np.geomspace(50, 1, 10))),
    Regime("best is cheapest", _SPREAD, tuple(np.geomspace(1, 50, 10))),
    Regime("one far ahead", (2.5, *[0.0] * 9), (1.0,) * 10),
    Regime("rare specialist", (*[0.0] * 9, -2.0), (*[1.0] * 9, 10.0), bonus=6.0, domain=0.02),
    Regime("heavy tails, uneven", _SPREAD, (1.0,) * 10, tail=4.0, uneven=0.5),
    Regime("verifier, 0 or 1", (*np.linspace(0.5, -0.5, 10),), (1.0,) * 10, verifier=True),
    Regime("ties, 5 % missing", _SPREAD, (1.0,) * 10, steps=0.5, missing=0.05),
    Regime("equal sources, taste", (0.0,) * 10, (1.0,) * 10),
    Regime("equal sources, noise alone", (0.0,) * 10, (1.0,) * 10, taste=0.0, noise=1.0),
)


def make(regime: Regime, num_prompts: int, seed: int) -> RewardTable:
    """Return the table of `regime`, the same for the same arguments."""
    generator = np.random.default_rng(seed)
    levels = _levels(regime, num_prompts, generator)
    noise = _noise(regime, num_prompts, generator)
    quality = _quality(regime, levels, noise)
    rewards = quality[:, None] + levels[:, :, None] + noise
    rewards += regime.difficulty * generator.normal(size=(num_prompts, 1, 1))
    if regime.steps:
        rewards = np.round(rewards / regime.steps) * regime.steps
    if regime.verifier:
        rewards = (rewards > 1.0).astype(float)
    lengths = generator.lognormal(6.0, 0.4, size=rewards.shape) * generator.uniform(0.7, 1.3, size=(len(quality), 1))
    present = generator.random(rewards.shape) >= regime.missing
    sources = tuple(f"source-{number:02d}" for number in range(len(quality)))
    ids = tuple(f"prompt-{number:06d}" for number in range(num_prompts))
    return RewardTable(
        ids, sources, (regime.num_samples,) * len(sources), np.where(present, rewards, 0.0), lengths.astype(np.int32),
        np.ones_like(present), present,
    )  # fmt: skip


def _levels(regime: Regime, num_prompts: int, generator: np.random.Generator) -> np.ndarray:
    """Return what a source makes of a prompt beyond its quality: [prompts, sources]."""
    num_sources = len(regime.costs)
    liking = generator.normal(size=(num_sources, _NUM_TASTES)) / np.sqrt(_NUM_TASTES)
    shared = generator.normal(size=(num_prompts, _NUM_TASTES)) @ liking.T
    own = generator.normal(size=(num_prompts, num_sources))
    levels = regime.taste * (np.sqrt(_SHARED) * shared + np.sqrt(1 - _SHARED) * own)
    levels[:, -1] += regime.bonus * (generator.random(num_prompts) < regime.domain)
    return levels


def _noise(regime: Regime, num_prompts: int, generator: np.random.Generator) -> np.ndarray:
    shape = (num_prompts, len(regime.costs), regime.num_samples)
    if regime.tail:
        drawn = generator.standard_t(regime.tail, size=shape) / np.sqrt(regime.tail / (regime.tail - 2))
    else:
        drawn = generator.normal(size=shape)
    return regime.noise * drawn * np.exp(regime.uneven * generator.normal(size=(num_prompts, 1, 1)))


def _quality(regime: Regime, levels: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Return the qualities, fitted to the paper's shares of best responses where the regime names none."""
    if regime.quality is not None:
        return np.array(regime.quality)
    wanted = np.array([share for share, _ in PAPER]) / 100
    best, quality = levels + noise.max(axis=2), np.zeros(len(PAPER))
    for _ in range(200):
        found = np.bincount((quality + best).argmax(axis=1), minlength=len(wanted)) / len(best)
        quality += 0.3 * np.log(wanted / np.maximum(found, 1e-3))
    return quality - quality.mean()
