"""The demo's facts: three domains, each with its question wordings, and the prompts made from them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

FACTS_FOLDER = Path(__file__).parent / "facts"
DOMAINS = ("capitals", "elements", "verbs")


@dataclass(frozen=True)
class Fact:
    """One subject and the one word that answers every question about it."""

    domain: str
    subject: str
    answer: str


@dataclass(frozen=True)
class Domain:
    """Facts of one kind, with wordings for making the tiny models, for the run to train on and to test on."""

    name: str
    schooling_wordings: tuple[str, ...]
    train_wordings: tuple[str, ...]
    heldout_wordings: tuple[str, ...]
    sentence: str
    facts: tuple[Fact, ...]


@dataclass(frozen=True)
class Question:
    """A question as a user asks it, with the right answer in one word and in a sentence."""

    domain: str
    prompt: str
    answer: str
    sentence: str


def load_domain(name: str, folder: Path = FACTS_FOLDER) -> Domain:
    """Return the domain of one file in a folder of facts, the demo's unless another one is named."""
    raw = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return Domain(
        name=raw["domain"],
        schooling_wordings=tuple(raw["schooling_wordings"]),
        train_wordings=tuple(raw["train_wordings"]),
        heldout_wordings=tuple(raw["heldout_wordings"]),
        sentence=raw["sentence"],
        facts=tuple(Fact(raw["domain"], subject, answer) for subject, answer in raw["facts"]),
    )


def schooling_questions(domain: Domain) -> list[Question]:
    """Return every fact in the wordings that a tiny model sees while it is made, which are no held-out ones."""
    return _questions(domain, (*domain.schooling_wordings, *domain.train_wordings))


def train_questions(domain: Domain) -> list[Question]:
    """Return every fact in every training wording."""
    return _questions(domain, domain.train_wordings)


def heldout_questions(domain: Domain) -> list[Question]:
    """Return every fact in every held-out wording."""
    return _questions(domain, domain.heldout_wordings)


def first_facts(domain: Domain, count: int) -> Domain:
    """Return the domain with its first `count` facts only."""
    return replace(domain, facts=domain.facts[:count])


def texts(questions: Iterable[Question]) -> list[str]:
    """Return all that is said in questions and answers, for a tokenizer to learn from."""
    return [text for q in questions for text in (q.prompt, q.answer, q.sentence)]


def write_prompts(questions: Iterable[Question], path: Path) -> None:
    """Write questions as JSON lines with the columns prompt, answer and domain."""
    rows = [{"prompt": q.prompt, "answer": q.answer, "domain": q.domain} for q in questions]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _questions(domain: Domain, wordings: Sequence[str]) -> list[Question]:
    return [
        Question(
            domain=domain.name,
            prompt=wording.format(subject=fact.subject),
            answer=fact.answer,
            sentence=domain.sentence.format(subject=fact.subject, answer=fact.answer),
        )
        for fact in domain.facts
        for wording in wordings
    ]
