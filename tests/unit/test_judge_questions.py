"""What a judge is asked about two models, and how its verdicts decide; the steps are real, the judge is a function."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from wrpo_ray.config import VerifierRewardConfig
from wrpo_ray.evaluate.answers import verified
from wrpo_ray.evaluate.pairwise import Compared
from wrpo_ray.evaluate.questions import judged, position_bias, write_questions
from wrpo_ray.judging import TEMPLATE
from wrpo_ray.prompt_layout import write_prompts
from wrpo_ray.schema import Prompt, Response, Row, prompt_id, to_table
from wrpo_ray.storage.location import Location, locate
from wrpo_ray.storage.manifest import FileEntry, Manifest, create_manifest
from wrpo_ray.storage.tables import read_rows, write_rows

PAIRS = [("fused", "base"), ("base", "fused")]


def complete(folder: Location, files: tuple[FileEntry, ...]) -> Location:
    create_manifest(folder, Manifest("s", "f", {}, {}, files, {}, {}, 0.0))
    return folder


def step(folder: Path, rows: list[Row], row_type: type[Row]) -> Location:
    place = locate(folder)
    return complete(place, (write_rows(place, "data/rows.parquet", rows, row_type),))


def prompt(number: int) -> Prompt:
    messages = [{"role": "user", "content": f"question {number}"}]
    return Prompt(prompt_id(messages), messages, "sft", "yes" if number else None)


def responses(folder: Path, model: str, texts: dict[int, list[str]]) -> Location:
    rows = [
        Response(prompt(number).prompt_id, model, index, text, [], "stop", 1)
        for number, of_prompt in texts.items()
        for index, text in reversed(list(enumerate(of_prompt)))
    ]
    return step(folder / model, rows, Response)


def answers(folder: Path) -> dict[str, Location]:
    """Prompts 0 to 3 have an answer of both, the third the same one; the others of one model alone."""
    fused = {0: ["good", "x"], 1: ["good, and long"], 2: ["bad"], 3: ["same", "y"], 4: ["alone"]}
    base = {0: ["bad"], 1: ["bad"], 2: ["good"], 3: ["same"], 5: ["alone"]}
    return {"fused": responses(folder, "fused", fused), "base": responses(folder, "base", base)}


def shown(question: Prompt) -> tuple[str, str]:
    """Return the answers in the order in which they are shown."""
    found = re.findall(r"\[BEGIN answer . \w+\]\n(.*?)\n\[END", question.messages[0]["content"], flags=re.DOTALL)
    return found[0], found[1]


def decided(folder: Path, judge: Callable[[str, str], str | None], cut: bool = False) -> list[Compared]:
    """Ask `judge`, which gets the answers as they are shown and replies, or sets the question aside with None."""
    given = sorted((prompt(number) for number in range(6)), key=lambda row: row.prompt_id)
    prompts = step(folder / "prompts", given, Prompt)
    questions = locate(folder / "questions")
    result = write_questions(TEMPLATE, prompts, answers(folder), PAIRS, questions)
    # Either pair asks the same questions of three prompts, in both orders, and none where the answers are the same.
    assert dict(result.summary) == {"num_comparisons": 8, "num_questions": 6}
    complete(questions, result.files)
    asked = read_rows(questions, Prompt)
    assert [row.prompt_id for row in asked] == sorted({prompt_id(row.messages) for row in asked})
    replies = [(row, judge(*shown(row))) for row in asked]
    rows = [
        Response(row.prompt_id, "judge", 0, reply, [], "length" if cut else "stop", 1)
        for row, reply in replies
        if reply is not None
    ]
    return judged(questions, step(folder / "verdicts", rows, Response), PAIRS)


def test_a_judge_with_an_eye_for_quality(tmp_path: Path) -> None:
    forward, back = decided(tmp_path, lambda first, second: "Well.\n[[A]]" if first.startswith("good") else "[[B]]")
    outcomes = {prompt(number).prompt_id: value for number, value in enumerate((1.0, 1.0, 0.0, 0.5))}
    assert {name: outcome.preference for name, outcome in forward.outcomes.items()} == outcomes
    assert {name: 1 - outcome.preference for name, outcome in back.outcomes.items()} == outcomes
    assert (forward.position_bias, forward.undecided) == (0.0, {})
    # Of the first samples: "bad" is three characters long, "good, and long" fourteen.
    assert forward.outcomes[prompt(1).prompt_id].length_difference == 3 - 14


@pytest.mark.parametrize(("letter", "bias"), [("A", 1.0), ("B", -1.0), ("C", None)])
def test_a_judge_that_goes_by_the_place_decides_nothing(tmp_path: Path, letter: str, bias: float | None) -> None:
    for pair in decided(tmp_path, lambda first, second: f"[[{letter}]]"):
        assert {outcome.preference for outcome in pair.outcomes.values()} == {0.5}
        assert pair.position_bias == bias


def test_what_is_not_decided_is_named_and_left_out(tmp_path: Path) -> None:
    def judge(first: str, second: str) -> str | None:
        if "long" in first:
            return "The first is clearly better: [[A]]!"
        return None if first == "good" else "[[A]]"

    pair, _ = decided(tmp_path, judge)
    assert len(pair.outcomes) == 1
    assert sorted(pair.undecided.values()) == [
        "without a reply",
        "without a reply",
        "without a verdict as their last line",
    ]


def test_a_verdict_that_was_cut_is_none(tmp_path: Path) -> None:
    pair, _ = decided(tmp_path, lambda first, second: "[[A]]", cut=True)
    assert set(pair.undecided.values()) == {"cut at max_tokens"}
    assert pair.position_bias is None


def test_position_bias_by_hand() -> None:
    consistent = [("first", "second"), ("second", "first")]
    assert position_bias(consistent) == 0.0
    # Of five winners four stood first.
    assert position_bias([("first", "first"), ("first", "tie"), ("first", "second")]) == pytest.approx(3 / 5)
    assert position_bias([("tie", "tie")]) is position_bias([]) is None


def test_a_rule_sees_the_prompts_with_an_answer_and_all_samples(tmp_path: Path) -> None:
    prompts = locate(tmp_path / "prompts")
    rows = sorted((prompt(number) for number in range(3)), key=lambda row: row.prompt_id)
    complete(prompts, write_prompts(prompts, [to_table(rows, Prompt)]))
    drawn = {"m": responses(tmp_path, "m", {0: ["yes"], 1: ["Yes.", "no"], 2: ["no", "no"]})}
    found = verified(drawn, prompts, VerifierRewardConfig(type="verifier"))["m"]
    assert found.values == {prompt(1).prompt_id: 0.5, prompt(2).prompt_id: 0.0}
    assert (found.num_answers, found.lengths[prompt(1).prompt_id]) == (4, 3.0)
