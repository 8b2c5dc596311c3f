"""Length-controlled win rates against what alpaca_eval's own code gives."""

import math

import numpy as np
import pytest

from wrpo_ray.evaluate.length_control import length_controlled

# alpaca_eval 0.6.6 on the data of `simulated`: _get_featurized_data with the formula of length_controlled_minimal, then
# fit_LogisticRegressionCV (scikit-learn 1.6.1) and the mean of predict_proba on the rows without a length difference.
# Ridge: n_splits=0, penalty="l2", solver="lbfgs", tol=1e-10, C as it is (100). Published: its defaults, n_splits=5.
REFERENCE = [
    # seed, number, model, length, ties, ridge, published
    (1, 200, 0.4, 1.5, 0.1, 0.6278255984423577, 0.6278472660466763),
    (2, 200, -0.5, 2.0, 0.3, 0.3968781378477288, 0.39793764348554544),
    (3, 805, 0.0, 1.0, 0.0, 0.4600870378336079, 0.46034666943709085),
    (4, 60, 1.5, -1.0, 0.2, 0.8037221690343658, None),
    (5, 40, 6.0, 0.0, 0.0, 0.9976948482722872, None),
]


def simulated(seed: int, number: int, model: float, length: float, ties: float) -> tuple[np.ndarray, np.ndarray]:
    """Return preferences, and lengths of the baseline minus those of the model; the last of them won all of its 40."""
    generator = np.random.default_rng(seed)
    baseline = generator.integers(100, 2000, size=number)
    ours = (baseline * generator.integers(80, 220, size=number)) // 100
    chance = 1 / (1 + np.exp(-(model + length * np.tanh((ours - baseline) / 600.0))))
    preferences = (generator.random(number) < chance).astype(float)
    preferences[generator.random(number) < ties] = 0.5
    return preferences, (baseline - ours).astype(float)


@pytest.mark.parametrize(("seed", "number", "model", "length", "ties", "ridge", "published"), REFERENCE)
def test_as_alpaca_eval(seed, number, model, length, ties, ridge, published) -> None:
    preferences, differences = simulated(seed, number, model, length, ties)
    found = length_controlled(preferences, differences, num_bootstrap=50, seed=0)
    assert found is not None
    assert found.win_rate == pytest.approx(ridge, abs=1e-7)
    if published is not None:
        assert found.win_rate == pytest.approx(published, abs=2e-3)
    assert found.interval.low <= found.win_rate <= found.interval.high


def test_a_judge_that_goes_by_length_alone_is_seen_through() -> None:
    generator = np.random.default_rng(1)
    differences = generator.normal(-300, 400, size=1500)
    preferences = (generator.random(1500) < 1 / (1 + np.exp(2 * np.tanh(differences / 400)))).astype(float)
    assert preferences.mean() > 0.62
    found = length_controlled(preferences, differences, num_bootstrap=200, seed=2)
    assert found is not None
    assert found.win_rate == pytest.approx(0.5, abs=0.04)
    assert found.interval.low < 0.5 < found.interval.high


def test_intervals_cover_what_equal_lengths_would_give() -> None:
    truth, covered = 1 / (1 + math.exp(-0.4)), 0
    generator = np.random.default_rng(4)
    for seed in range(100):
        differences = generator.normal(0, 300, size=200)
        feature = np.tanh(differences / 300)
        preferences = (generator.random(200) < 1 / (1 + np.exp(-(0.4 - feature)))).astype(float)
        found = length_controlled(preferences, differences, num_bootstrap=200, seed=seed)
        assert found is not None
        covered += found.interval.low <= truth <= found.interval.high
    assert 88 <= covered <= 100


def test_nothing_to_control_for() -> None:
    assert length_controlled(np.array([1.0, 0.0]), np.array([7.0, 7.0]), 10, 0) is None
    assert length_controlled(np.array([1.0]), np.array([7.0]), 10, 0) is None
