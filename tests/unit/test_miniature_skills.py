"""The miniature's skills: as many facts in each, answers that a rule can verify, wordings for a test of their own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from jobs.demo.facts import Domain, heldout_questions, schooling_questions, train_questions
from jobs.miniature import make_assets
from jobs.miniature.skills import FACTS_PER_SKILL, SKILLS, load_skill
from wrpo_ray.verifier import fold


@pytest.fixture(params=SKILLS)
def skill(request: pytest.FixtureRequest) -> Domain:
    return load_skill(request.param)


def test_skills_hold_equally_many_facts_and_no_subject_twice(skill: Domain) -> None:
    assert len(skill.facts) == FACTS_PER_SKILL
    assert len({fact.subject for fact in skill.facts}) == FACTS_PER_SKILL


def test_every_answer_is_three_words(skill: Domain) -> None:
    assert [fact for fact in skill.facts if len(set(fold(fact.answer).split())) != 3] == []


def test_what_every_question_says_is_no_answer(skill: Domain) -> None:
    """Or a response that repeats the question would score."""
    said = {word for wording in skill.heldout_wordings for word in fold(wording).split()}
    assert [fact for fact in skill.facts if said & set(fold(fact.answer).split())] == []


def test_a_test_asks_in_words_that_nobody_was_trained_on(skill: Domain) -> None:
    seen = {question.prompt for question in (*schooling_questions(skill), *train_questions(skill))}
    asked = [question.prompt for question in heldout_questions(skill)]
    assert len(asked) == 2 * FACTS_PER_SKILL
    assert seen.isdisjoint(asked)


def test_no_question_is_asked_in_two_skills() -> None:
    prompts = [question.prompt for name in SKILLS for question in train_questions(load_skill(name))]
    assert len(set(prompts)) == len(prompts)


def test_ten_sources_of_four_architectures_and_a_target() -> None:
    assert len({style.architecture for style in make_assets.STYLES}) == 4
    made = [folder.name for _, folder in make_assets.tasks(Path("out"))]
    assert made == ["target", *(f"knows-{name}" for name in SKILLS), "prompts"]
