"""Rule-based rewards for prompts with a reference answer."""

from __future__ import annotations

import math
import re
from collections import Counter

from wrpo_ray.config import VerifierRewardConfig

# A sign counts only where no word or number stands before it: "10-12" holds 10 and 12.
_NUMBER = re.compile(r"(?:(?<![\w.])[-+])?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?")
_NUMERIC_TOLERANCE = 1e-6
# What a sentence puts around a word. Signs, points and symbols inside or before a word are part of it: -3, .5, C++, 5%.
_BEFORE_WORDS = "\"'([{*_`"
_AFTER_WORDS = "\"')]}*_`.,;:!?"


def fold(text: str) -> str:
    """Return `text` without case, extra space and punctuation around words: "The  'U.S.'!" becomes "the u.s"."""
    words = (word.lstrip(_BEFORE_WORDS).rstrip(_AFTER_WORDS) for word in text.casefold().split())
    return " ".join(word for word in words if word)


def last_number(text: str) -> float | None:
    """Return the last number in `text` ("1,234.5" is one), or None; what no float can hold (1e999) is no number."""
    found = _NUMBER.findall(text)
    number = float(found[-1].replace(",", "")) if found else math.inf
    return number if math.isfinite(number) else None


def word_f1(said: str, expected: str) -> float:
    """Return the harmonic mean of precision and recall over words, each counted as often as it stands there.

    Source: SQuAD (https://arxiv.org/abs/1606.05250), which also leaves English articles out. 1 for two empty texts.
    """
    given, wanted = said.split(), expected.split()
    if not given or not wanted:
        return float(given == wanted)
    shared = (Counter(given) & Counter(wanted)).total()
    return 2 * shared / (len(given) + len(wanted))


def verify(response: str, answer: str, config: VerifierRewardConfig) -> float:
    """Return the reward of `response` for a prompt whose reference answer is `answer`."""
    if config.mode == "numeric":
        return config.correct_reward if _same_number(response, answer) else config.wrong_reward
    said, expected = fold(response), fold(answer)
    if config.mode == "f1":
        return config.wrong_reward + (config.correct_reward - config.wrong_reward) * word_f1(said, expected)
    if not expected:
        # An answer of punctuation alone: only itself is right.
        return config.correct_reward if response.strip() == answer.strip() else config.wrong_reward
    if said == expected:
        return config.correct_reward
    return config.contained_reward if f" {expected} " in f" {said} " else config.wrong_reward


def _same_number(response: str, answer: str) -> bool:
    said, expected = last_number(response), last_number(answer)
    if said is None or expected is None:
        return False
    return abs(said - expected) <= _NUMERIC_TOLERANCE * max(1.0, abs(expected))
