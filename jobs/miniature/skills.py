"""Ten skills that a rule can verify: domains of facts in three words, tested in wordings that no model has seen."""

from __future__ import annotations

from pathlib import Path

from jobs.demo import facts
from jobs.demo.facts import Domain

FACTS_FOLDER = Path(__file__).parent / "facts"
SKILLS = (
    "countries",
    "elements",
    "verbs",
    "animals",
    "translations",
    "states",
    "adjectives",
    "currencies",
    "numerals",
    "powers",
)
# Skills count alike only when they hold equally many facts.
FACTS_PER_SKILL = 30


def load_skill(name: str) -> Domain:
    """Return a skill with all of its facts."""
    return facts.load_domain(name, FACTS_FOLDER)


def load_skills() -> list[Domain]:
    """Return all skills in their order."""
    return [load_skill(name) for name in SKILLS]
