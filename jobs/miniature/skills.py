"""Ten skills that a rule can verify: each is a domain of facts, tested in wordings that no model has seen."""

from __future__ import annotations

from pathlib import Path

from jobs.demo import facts
from jobs.demo.facts import Domain

FACTS_FOLDER = Path(__file__).parent / "facts"
OWN = ("plurals", "opposites", "currencies", "young", "spanish", "roman", "squares")
SKILLS = (*facts.DOMAINS, *OWN)
# Skills count alike only when they hold equally many facts.
FACTS_PER_SKILL = 40


def load_skill(name: str) -> Domain:
    """Return a skill with its first FACTS_PER_SKILL facts."""
    folder = FACTS_FOLDER if name in OWN else facts.FACTS_FOLDER
    return facts.first_facts(facts.load_domain(name, folder), FACTS_PER_SKILL)


def load_skills() -> list[Domain]:
    """Return all skills in their order."""
    return [load_skill(name) for name in SKILLS]
