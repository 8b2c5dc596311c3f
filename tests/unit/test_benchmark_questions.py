"""Question files of benchmarks: ids stay, what is wrong is named by file and row."""

import ast
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

from wrpo_ray.benchmark_questions import MT_BENCH_TEMPERATURES, first_turns, load_questions, read_questions
from wrpo_ray.config_benchmarks import BenchmarksConfig
from wrpo_ray.errors import DataError
from wrpo_ray.schema import prompt_id

# The shapes of the published files: alpaca_eval.json, question.jsonl of Arena-Hard v0.1 and v2, and of FastChat.
ALPACA = [{"dataset": "helpful_base", "instruction": "Name a river.", "output": "x", "generator": "davinci"}]
ARENA_1 = [{"question_id": "96d2", "category": "arena-hard-v0.1", "cluster": "c", "turns": [{"content": "Why?"}]}]
ARENA_2 = [{"uid": "0001b5", "category": "hard_prompt", "subcategory": "math", "prompt": "Name a river."}]
MT = [{"question_id": 81, "category": "writing", "turns": ["Write.", "Rewrite."], "reference": ["a", "b"]}]


def write(path: Path, rows: list[Any]) -> str:
    """Write rows as a JSON list or as JSON lines, by the ending of the path."""
    text = json.dumps(rows) if path.suffix == ".json" else "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return str(path)


def section(folder: Path) -> BenchmarksConfig:
    """Return a section that names one file of each benchmark."""
    return BenchmarksConfig(
        alpaca_eval=write(folder / "alpaca_eval.json", ALPACA),
        arena_hard_v0_1=write(folder / "v1.jsonl", ARENA_1),
        arena_hard_v2=write(folder / "v2.jsonl", ARENA_2),
        mt_bench=write(folder / "mt.jsonl", MT),
    )


def test_ids_and_turns_are_kept(tmp_path: Path) -> None:
    questions = load_questions(section(tmp_path))
    assert [(question.benchmark, question.key, question.turns) for question in questions] == [
        ("alpaca_eval", "Name a river.", ("Name a river.",)),
        ("arena_hard_v0_1", "96d2", ("Why?",)),
        ("arena_hard_v2", "0001b5", ("Name a river.",)),
        ("mt_bench", 81, ("Write.", "Rewrite.")),
    ]
    assert questions[0].dataset == "helpful_base"


def test_the_same_question_of_two_benchmarks_is_asked_once(tmp_path: Path) -> None:
    prompts = first_turns(load_questions(section(tmp_path)))
    asked = {prompt.messages[0]["content"]: prompt for prompt in prompts.prompts}
    assert set(asked) == {"Name a river.", "Why?", "Write."}
    assert asked["Why?"].prompt_id == prompt_id([{"role": "user", "content": "Why?"}])
    assert (prompts.num_rows, prompts.num_duplicates) == (4, 1)


def test_temperatures_of_categories_are_those_of_fastchat() -> None:
    """Read, not imported: its module wants packages of all the endpoints that it knows."""
    found = importlib.util.find_spec("fastchat")
    assert found is not None
    assert found.submodule_search_locations is not None
    text = (Path(found.submodule_search_locations[0]) / "llm_judge" / "common.py").read_text(encoding="utf-8")
    (theirs,) = re.findall(r"^temperature_config = (\{.*?\})$", text, flags=re.DOTALL | re.MULTILINE)
    assert ast.literal_eval(theirs) == MT_BENCH_TEMPERATURES


def test_temperature_of_a_question(tmp_path: Path) -> None:
    given = ({"category": "writing"}, {"category": "math"}, {"category": "new"}, {"required_temperature": 1})
    rows = [{"question_id": n, "turns": [f"{n}", "b"], **fields} for n, fields in enumerate(given)]
    questions, problems = read_questions(BenchmarksConfig(mt_bench=write(tmp_path / "q.jsonl", rows)))
    assert problems == []
    assert [question.temperature for question in questions] == [0.7, 0.0, 0.7, 1.0]


@pytest.mark.parametrize(
    ("benchmark", "row", "rule"),
    [
        ("mt_bench", {**MT[0], "turns": ["one"]}, "`turns` must be a list of 2"),
        ("mt_bench", {**MT[0], "question_id": None}, "`question_id` must be an id"),
        ("mt_bench", {"question_id": 9, "turns": ["a", "b"]}, "`category` must be text"),
        ("mt_bench", {**MT[0], "question_id": 9, "category": "math"}, "asks the same, of a category with another"),
        ("mt_bench", {**MT[0], "question_id": 9, "required_temperature": -1}, "must be a number, 0 or more"),
        ("mt_bench", {**MT[0], "question_id": 9, "required_temperature": True}, "must be a number, 0 or more"),
        ("arena_hard_v0_1", {**ARENA_1[0], "turns": [{"content": ""}]}, "`content` must be text"),
        ("arena_hard_v2", {"uid": "a"}, "`prompt` must be text"),
        ("alpaca_eval", {"dataset": "x"}, "`instruction` must be text"),
        ("arena_hard_v2", [1], "must hold a JSON object"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, benchmark: str, row: Any, rule: str) -> None:
    good = {"mt_bench": MT, "arena_hard_v0_1": ARENA_1, "arena_hard_v2": ARENA_2, "alpaca_eval": ALPACA}[benchmark]
    path = write(tmp_path / "q.jsonl", [*good, row])
    with pytest.raises(DataError) as caught:
        load_questions(BenchmarksConfig.model_validate({benchmark: path}))
    (problem,) = caught.value.problems
    assert rule in problem.rule
    assert problem.place == f"evaluation.benchmarks.{benchmark}: {path}, row 2"
    assert problem.code == "WRPO-D061"


def test_an_id_that_comes_twice_and_a_line_that_is_no_json(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps(MT[0]) + "\n" + json.dumps(MT[0]) + "\n{\n", encoding="utf-8")
    _, problems = read_questions(BenchmarksConfig(mt_bench=str(path)))
    assert [problem.rule.split(":")[0] for problem in problems] == [
        "another row has the same id", "the row is not JSON",
    ]  # fmt: skip


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    empty = write(tmp_path / "empty.jsonl", [])
    for given in (BenchmarksConfig(), BenchmarksConfig(mt_bench=empty), BenchmarksConfig(mt_bench="/nowhere.jsonl")):
        _, (problem,) = read_questions(given)
        assert problem.code == "WRPO-D060"
