"""What is expected of a source on a prompt: a Gaussian model of rewards, fitted to what has been drawn.

reward[prompt, source, sample] = level[prompt, source] + noise. The levels of a prompt are jointly normal over the
sources (their covariance holds how hard prompts are and what sources are good at together), the noise is each source's
own. The model need not be true: the policy that uses it is tuned on real rewards.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wrpo_ray.allocation.table import RewardTable

# Of the spread of all rewards: nothing smaller is told apart, and nothing is divided by zero.
_SMALLEST_SPREAD = 1e-3


@dataclass(frozen=True)
class RewardModel:
    """mean: [sources]. covariance: of levels, [sources, sources]. noise: standard deviations, [sources].

    highest: no reward above it has been seen; where rewards are bounded (a verifier's), it is their bound.
    """

    mean: np.ndarray
    covariance: np.ndarray
    noise: np.ndarray
    highest: float


def fit(looks: RewardTable, pilot: RewardTable) -> RewardModel:
    """Return the model: levels from the first response of every source to the prompts of `looks`, noise from `pilot`.

    Prompts of `pilot` have all samples. The prompts of both are different ones, so that `pilot` can judge the result.
    """
    spread = max(float(pilot.rewards[pilot.present].std()), 1e-12)
    noise = np.maximum(_within(pilot), _SMALLEST_SPREAD * spread)
    first, seen = _first(looks)
    counts = np.maximum(seen.sum(axis=0), 1)
    mean = np.where(seen, first, 0.0).sum(axis=0) / counts
    centred = np.where(seen, first - mean, 0.0)
    pairs = np.maximum(seen.T.astype(float) @ seen, 1.0)
    covariance = centred.T @ centred / pairs
    covariance[np.diag_indices_from(covariance)] -= noise**2
    highest = max(float(table.rewards[table.present].max(initial=-np.inf)) for table in (looks, pilot))
    return RewardModel(mean, _positive(covariance, (_SMALLEST_SPREAD * spread) ** 2), noise, highest)


def _within(pilot: RewardTable) -> np.ndarray:
    """Return the standard deviation between samples of one source to one prompt: [sources]."""
    counts = pilot.present.sum(axis=2)
    means = pilot.rewards.sum(axis=2) / np.maximum(counts, 1)
    squares = np.where(pilot.present, (pilot.rewards - means[:, :, None]) ** 2, 0.0).sum(axis=(0, 2))
    return np.sqrt(squares / np.maximum(np.maximum(counts - 1, 0).sum(axis=0), 1))


def _first(table: RewardTable) -> tuple[np.ndarray, np.ndarray]:
    """Return the first reward of every prompt and source, and where there is one: two arrays of [prompts, sources]."""
    number = table.present.argmax(axis=2)
    seen = np.asarray(table.present.any(axis=2))
    return np.take_along_axis(table.rewards, number[:, :, None], axis=2)[:, :, 0], seen


def _positive(matrix: np.ndarray, smallest: float) -> np.ndarray:
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return (vectors * np.maximum(values, smallest)) @ vectors.T


def posterior(model: RewardModel, table: RewardTable) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of every level, given the rewards of its prompt: two [prompts, sources]."""
    counts = table.present.sum(axis=2)
    means, spreads = np.empty(counts.shape), np.empty(counts.shape)
    precision = np.linalg.inv(model.covariance)
    excess = table.rewards.sum(axis=2) - counts * model.mean
    patterns, pattern_of = np.unique(counts, axis=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        rows = np.flatnonzero(pattern_of.reshape(-1) == number)
        covariance = np.linalg.inv(precision + np.diag(pattern / model.noise**2))
        means[rows] = model.mean + (excess[rows] / model.noise**2) @ covariance
        spreads[rows] = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    return means, spreads
