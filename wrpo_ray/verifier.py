"""Rule-based rewards for prompts with a reference answer."""

from __future__ import annotations

import re
import string

from wrpo_ray.config import VerifierRewardConfig

_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?|[-+]?\.\d+")
_NUMERIC_TOLERANCE = 1e-6
_PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation, " "))


def fold(text: str) -> str:
    """Return `text` without case, ASCII punctuation and extra space: "The  Answer: U.S." becomes "the answer u s"."""
    return " ".join(text.casefold().translate(_PUNCTUATION).split())


def last_number(text: str) -> float | None:
    """Return the last number in `text` ("1,234.5" is one), or None."""
    found = _NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None


def verify(response: str, answer: str, config: VerifierRewardConfig) -> float:
    """Return the reward of `response` for a prompt whose reference answer is `answer`."""
    if config.mode == "numeric":
        return config.correct_reward if _same_number(response, answer) else config.wrong_reward
    said, expected = fold(response), fold(answer)
    if said == expected:
        return config.correct_reward
    return config.contained_reward if expected and f" {expected} " in f" {said} " else config.wrong_reward


def _same_number(response: str, answer: str) -> bool:
    said, expected = last_number(response), last_number(answer)
    if said is None or expected is None:
        return False
    return abs(said - expected) <= _NUMERIC_TOLERANCE * max(1.0, abs(expected))
