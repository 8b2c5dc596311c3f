"""The demo's facts are what its numbers rest on: no duplicates, no overlap of wordings, enough of them."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
# `jobs` is no part of the installed package.
sys.path.insert(0, str(REPOSITORY))

from jobs.demo import facts  # noqa: E402
from wrpo_ray.config_file import load_config  # noqa: E402
from wrpo_ray.verifier import fold  # noqa: E402

MIN_FACTS = 40


@pytest.fixture(params=facts.DOMAINS)
def domain(request: pytest.FixtureRequest) -> facts.Domain:
    return facts.load_domain(request.param)


def test_subjects_are_unique_and_many(domain: facts.Domain) -> None:
    counts = Counter(fact.subject for fact in domain.facts)
    assert len(counts) == len(domain.facts) >= MIN_FACTS


def test_every_answer_is_one_word(domain: facts.Domain) -> None:
    assert [fact for fact in domain.facts if len(fold(fact.answer).split()) != 1] == []


def test_a_subject_never_gives_its_answer_away(domain: facts.Domain) -> None:
    assert [fact for fact in domain.facts if fold(fact.subject) == fold(fact.answer)] == []


def test_wordings_are_disjoint(domain: facts.Domain) -> None:
    wordings = (*domain.schooling_wordings, *domain.train_wordings, *domain.heldout_wordings)
    assert len(set(wordings)) == len(wordings)
    assert len(domain.train_wordings) >= 3
    assert len(domain.heldout_wordings) >= 2


def test_every_wording_has_a_place_for_the_subject(domain: facts.Domain) -> None:
    wordings = (*domain.schooling_wordings, *domain.train_wordings, *domain.heldout_wordings)
    assert all(wording.count("{subject}") == 1 for wording in wordings)
    assert "{subject}" in domain.sentence
    assert "{answer}" in domain.sentence


def test_prompts_of_all_domains_are_unique() -> None:
    domains = [facts.load_domain(name) for name in facts.DOMAINS]
    questions = [q for d in domains for q in (*facts.train_questions(d), *facts.heldout_questions(d))]
    prompts = {question.prompt for question in questions}
    assert len(prompts) == len(questions)


def test_written_prompts_have_the_columns_of_the_configs(tmp_path: Path) -> None:
    questions = facts.train_questions(facts.load_domain("capitals"))
    facts.write_prompts(questions, tmp_path / "train.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == len(questions)
    assert rows[0] == {"prompt": "What is the capital of France?", "answer": "Paris", "domain": "capitals"}


@pytest.mark.parametrize("name", ["demo", "smoke"])
def test_configs_are_valid(name: str) -> None:
    assert load_config(REPOSITORY / "jobs" / "configs" / f"{name}.yaml").run.name == name
