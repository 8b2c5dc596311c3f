"""The formats of benchmarks, read by alpaca_eval and fschat themselves; Arena-Hard is no package."""

import json
from pathlib import Path
from typing import Any

import pytest

from wrpo_ray.benchmark_questions import Question
from wrpo_ray.evaluate import answer_formats
from wrpo_ray.evaluate.answer_formats import Answer, file_of, line, style
from wrpo_ray.evaluate.second_turns import collected, second_messages
from wrpo_ray.schema import Response, prompt_id

NOW_S = 1745605748.5
MT = Question("mt_bench", 81, ("Write.", "Rewrite."))
MARKDOWN = "# Title\n\n**bold** and __more__\n\n1. one\n2. two\n- a\n\n```\n# code\n- not a list\n```\n"


def write(folder: Path, benchmark: Any, rows: list[dict[str, Any]]) -> Path:
    """Write rows where the benchmark's package looks for the answers of the model `m`."""
    path = folder / file_of(benchmark, "m")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(line(row) for row in rows))
    return path


def test_alpaca_eval_scores_our_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package itself joins our outputs with the reference's and computes the win rate; its judge alone is a fake.

    Wins are told by a word in the answer: 2 of 3, and the package swaps the order of the two as it likes.
    """
    alpaca_eval = pytest.importorskip("alpaca_eval")
    from alpaca_eval.decoders import openai

    def judged(prompts: list[str], **_: Any) -> dict[str, Any]:
        verdicts = ["Output (a)" if prompt.index("good") < prompt.index("fair") else "Output (b)" for prompt in prompts]
        zeros = [0.0] * len(prompts)
        return {"completions": verdicts, "price_per_example": zeros, "time_per_example": zeros}

    monkeypatch.setattr(openai, "openai_completions", judged)
    texts = {"q1": "good", "q2": "good \u2028 line", "q3": "fair"}
    answers = [
        Answer(Question("alpaca_eval", question, (question,), "koala"), (text,), (1,))
        for question, text in texts.items()
    ]
    ours, reference = tmp_path / "m.json", tmp_path / "reference.json"
    ours.write_text(json.dumps(answer_formats.alpaca_eval("m", answers)), encoding="utf-8")
    others = {question: "fair" if "good" in text else "good" for question, text in texts.items()}
    rows = [
        {"dataset": "koala", "instruction": question, "output": text, "generator": "reference"}
        for question, text in reversed(others.items())
    ]
    reference.write_text(json.dumps(rows), encoding="utf-8")
    leaderboard, annotations = alpaca_eval.evaluate(
        model_outputs=str(ours), reference_outputs=str(reference), annotators_config="test", output_path=None,
        precomputed_leaderboard=None, is_return_instead_of_print=True, caching_path=None, fn_metric="get_winrate",
        metric_kwargs={}, leaderboard_mode_to_print=None, sort_by="win_rate",
    )  # fmt: skip
    assert leaderboard.loc["m", "win_rate"] == pytest.approx(100 * 2 / 3)
    assert leaderboard.loc["m", "n_total"] == 3
    assert {row["dataset"] for row in annotations} == {"koala"}


def test_fastchat_judges_both_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FastChat's own checks find every question, and its judge is shown both answers; what it says is made up."""
    common = pytest.importorskip("fastchat.llm_judge.common")
    rows = answer_formats.mt_bench("m", [Answer(MT, ("One.", "Two."), (2, 3))], NOW_S)
    path = write(tmp_path, "mt_bench", rows)
    answers = common.load_model_answers(str(path.parent))
    question = {"question_id": 81, "category": "writing", "turns": list(MT.turns)}
    common.check_data([question], answers, {}, ["m"], {})
    monkeypatch.setattr(common, "chat_completion_openai", lambda *_, **__: "Good. [[7]]")
    shown = "{question_1}|{answer_1}|{question_2}|{answer_2}"
    judge = common.Judge("gpt-4", {"prompt_template": shown, "system_prompt": "", "output_format": "[[rating]]"})
    rating, prompt, _ = common.run_judge_single(question, answers["m"][81], judge, None, multi_turn=True)
    assert (rating, prompt) == (7, "Write.|One.|Rewrite.|Two.")


def test_arena_hard_lines_have_the_fields_of_the_published_ones(tmp_path: Path) -> None:
    """As model_answer/gpt-4-0314.jsonl (v0.1) and model_answer/sky-t1-32b.jsonl (v2.0) of its repository."""
    first = Answer(Question("arena_hard_v0_1", "96d2", ("Why?",)), ("Because.",), (3,))
    (row,) = [json.loads(text) for text in write(
        tmp_path, "arena_hard_v0_1", answer_formats.arena_hard_v0_1("m", [first], NOW_S)
    ).read_text(encoding="utf-8").split("\n") if text]  # fmt: skip
    assert row.pop("conv_metadata")["token_len"] == 3
    assert len(row.pop("answer_id")) == 22
    assert row == {
        "question_id": "96d2", "model_id": "m", "tstamp": NOW_S,
        "choices": [{"index": 0, "turns": [{"content": "Because.", "token_len": 3}]}],
    }  # fmt: skip
    second = Answer(Question("arena_hard_v2", "0001b5", ("Why?",)), ("**Because**",), (4,))
    (row,) = answer_formats.arena_hard_v2("m", [second], NOW_S)
    # As gen_judgment.py reads the answer.
    assert row["messages"][-1]["content"]["answer"] == "**Because**"
    assert set(row) == {"uid", "ans_id", "model", "messages", "tstamp", "metadata"}
    assert row["messages"][0] == {"role": "user", "content": "Why?"}
    assert row["uid"] == "0001b5"
    # show_result.py adds up each of these four for its style control.
    assert [v if isinstance(v, int) else sum(v.values()) for v in row["metadata"].values()] == [4, 0, 0, 1]


def test_style_counts_markdown_outside_of_code() -> None:
    counts = style(MARKDOWN, 9)
    assert counts == {
        "token_len": 9,
        "header_count": {"h1": 1, "h2": 0, "h3": 0, "h4": 0, "h5": 0, "h6": 0},
        "list_count": {"ordered": 2, "unordered": 1},
        "bold_count": {"**": 1, "__": 1},
    }


def response(identity: str, text: str) -> Response:
    """Return one with as many tokens as characters."""
    return Response(identity, "m", 0, text, [1], "stop", len(text))


def test_answers_of_both_turns_come_together() -> None:
    lost = Question("mt_bench", 82, ("A", "B"))
    half = Question("mt_bench", 83, ("C", "D"))
    single = Question("arena_hard_v2", "u", ("Write.",))
    first = {question.prompt_id: response(question.prompt_id, "One.") for question in (MT, half)}
    identity = prompt_id(second_messages(MT, first[MT.prompt_id]))
    answers, missing = collected([MT, lost, half, single], [first, {identity: response(identity, "Second.")}])
    assert answers == [Answer(MT, ("One.", "Second."), (4, 7)), Answer(single, ("One.",), (4,))]
    assert missing == [lost, half]
