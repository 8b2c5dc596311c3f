"""Rewards by rule, each worked out by hand."""

import pytest

from wrpo_ray.config import VerifierRewardConfig
from wrpo_ray.verifier import last_number, verify

EXACT = VerifierRewardConfig(type="verifier", mode="exact", correct_reward=1.0, contained_reward=0.5)
NUMERIC = VerifierRewardConfig(type="verifier", mode="numeric", correct_reward=2.0, wrong_reward=-1.0)


@pytest.mark.parametrize(
    ("response", "answer", "reward"),
    [
        ("Paris", "Paris", 1.0),
        (" paris. ", "Paris", 1.0),
        ("The capital is Paris.", "Paris", 0.5),
        ("Parisian", "Paris", 0.0),
        ("", "Paris", 0.0),
        ("New  York!", "new york", 1.0),
        ("York is new", "New York", 0.0),
        ("3", "-3", 0.0),
        ("it is -3.", "-3", 0.5),
        ("1 5", "1.5", 0.0),
        ("c", "C++", 0.0),
        ("c++!", "C++", 1.0),
        ("'U.S.'", "U.S.", 1.0),
        ("...", "?!", 0.0),
        ("?!", "?!", 1.0),
    ],
)
def test_exact(response: str, answer: str, reward: float) -> None:
    assert verify(response, answer, EXACT) == reward


@pytest.mark.parametrize(
    ("response", "answer", "reward"),
    [
        ("12 + 7 = 19", "19", 2.0),
        ("#### 1,234.50", "1234.5", 2.0),
        ("about -3e2", "-300", 2.0),
        ("19 or 20", "19", -1.0),
        ("none", "19", -1.0),
        ("it is 10-12", "12", 2.0),
        ("8 - -3", "-3", 2.0),
        ("1000000.4", "1000000", 2.0),
        ("1000002", "1000000", -1.0),
    ],
)
def test_numeric(response: str, answer: str, reward: float) -> None:
    assert verify(response, answer, NUMERIC) == reward


@pytest.mark.parametrize(
    ("response", "answer", "reward"),
    [
        ("Went, gone, going.", "went, gone, going", 2.0),
        # Order does not count, repetition does: one of three words is shared.
        ("going went gone", "went, gone, going", 2.0),
        ("went went went", "went, gone, going", -1 + 3 * (1 / 3)),
        # Precision 2 of 4, recall 2 of 3.
        ("it went, going, gon", "went, gone, going", -1 + 3 * (4 / 7)),
        ("nothing", "went, gone, going", -1.0),
        ("", "went", -1.0),
        ("...", "?!", 2.0),
    ],
)
def test_f1(response: str, answer: str, reward: float) -> None:
    config = VerifierRewardConfig(type="verifier", mode="f1", correct_reward=2.0, wrong_reward=-1.0)
    assert verify(response, answer, config) == pytest.approx(reward)


def test_what_no_float_can_hold_equals_nothing() -> None:
    """inf is within any relative tolerance of inf: every response would be right."""
    assert verify("5", "1e999", NUMERIC) == verify("1e999", "5", NUMERIC) == verify("1e999", "1e999", NUMERIC) == -1.0


def test_last_number() -> None:
    assert last_number("from 3 to .5") == 0.5
    assert last_number("no digits") is None
    assert last_number("5 is less than 1e999") is None
