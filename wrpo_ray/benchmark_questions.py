"""Question files of benchmarks: each question with the benchmark's own id, and its first turn as a prompt of ours."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from wrpo_ray.config_benchmarks import BenchmarksConfig
from wrpo_ray.errors import DataError, Problem
from wrpo_ray.prompt_files import described
from wrpo_ray.prompts import PromptSet
from wrpo_ray.schema import Prompt, prompt_id
from wrpo_ray.sorted_prompts import Origin, PromptSorter

Benchmark = Literal["alpaca_eval", "arena_hard_v0_1", "arena_hard_v2", "mt_bench"]
BENCHMARKS: tuple[Benchmark, ...] = get_args(Benchmark)
# `temperature_config` of fastchat/llm_judge/common.py (fschat 0.2.36), and what its gen_model_answer.py and
# gen_api_answer.py take for any other category.
MT_BENCH_TEMPERATURES: Mapping[str, float] = {
    "writing": 0.7,
    "roleplay": 0.7,
    "extraction": 0.0,
    "math": 0.0,
    "coding": 0.0,
    "reasoning": 0.0,
    "stem": 0.1,
    "humanities": 0.1,
    "arena-hard-200": 0.0,
}
_OTHER_CATEGORY = 0.7
_NUM_TURNS = {"alpaca_eval": 1, "arena_hard_v0_1": 1, "arena_hard_v2": 1, "mt_bench": 2}
_MAX_SHOWN = 20
PLACE = "evaluation.benchmarks"


@dataclass(frozen=True)
class Question:
    """One question. key: its id in the benchmark's own type. turns: what the user says. dataset: AlpacaEval's column.

    temperature: that its benchmark asks for, 0 where it asks for none.
    prompt_id: of the first turn, by which its answer is found.
    """

    benchmark: Benchmark
    key: str | int
    turns: tuple[str, ...]
    dataset: str | None = None
    temperature: float = 0.0

    @property
    def first_messages(self) -> list[dict[str, str]]:
        return [{"role": "user", "content": self.turns[0]}]

    @property
    def prompt_id(self) -> str:
        return prompt_id(self.first_messages)


class _RowError(ValueError):
    """A rule that one row breaks; `value` is described, never shown."""

    def __init__(self, value: Any, rule: str) -> None:
        super().__init__(rule)
        self.value, self.rule = described(value), rule


def load_questions(section: BenchmarksConfig) -> list[Question]:
    """Return the questions of all files in `section`, in the order of the files.

    Raises DataError that lists what is wrong, each with file and row.
    """
    questions, problems = read_questions(section)
    if problems:
        raise DataError.of("cannot use the questions of the benchmarks", problems)
    return questions


def read_questions(section: BenchmarksConfig) -> tuple[list[Question], list[Problem]]:
    """Return the questions that can be used, and what is wrong with the others: at most 20 problems."""
    files: list[tuple[Benchmark, str]] = [
        (name, path) for name in BENCHMARKS if (path := getattr(section, name)) is not None
    ]
    if not files:
        rule = "must name the question file of at least one benchmark"
        fix = f"add one of {', '.join(BENCHMARKS)}, or leave the section out"
        return [], [Problem(PLACE, "(nothing)", rule, fix, "WRPO-D060")]
    questions: list[Question] = []
    problems: list[Problem] = []
    for name, path in files:
        for found in _read_file(name, Path(path).expanduser()):
            if isinstance(found, Problem):
                problems.append(found)
            else:
                questions.append(found)
    return questions, problems[:_MAX_SHOWN]


def first_turns(questions: Sequence[Question]) -> PromptSet:
    """Return the distinct first turns as prompts; two questions that ask the same share one."""
    return prompt_set([question.first_messages for question in questions])


def prompt_set(conversations: Sequence[list[dict[str, str]]]) -> PromptSet:
    """Return conversations as prompts of one split, in order of prompt_id."""
    sorter = PromptSorter()
    for order, messages in enumerate(conversations):
        sorter.add(Prompt(prompt_id(messages), messages, "preference", None), Origin(order, 0, order + 1))
    # Equal prompts have no answers that could differ.
    prompts = sorter.finish(lambda conflict: None)
    return PromptSet(prompts, len(conversations), len(conversations) - len(prompts))


def _read_file(benchmark: Benchmark, path: Path) -> Iterator[Question | Problem]:
    place = f"{PLACE}.{benchmark}: {path}"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        yield Problem(place, type(error).__name__, "the file cannot be read as UTF-8", "correct the path", "WRPO-D060")
        return
    known: set[str | int] = set()
    temperatures: dict[str, float] = {}
    number = 0
    for number, row in enumerate(_rows(path, text), start=1):
        try:
            question = _PARSERS[benchmark](_mapping(row))
            if question.key in known:
                raise _RowError(question.key, "another row has the same id")
            if temperatures.setdefault(question.prompt_id, question.temperature) != question.temperature:
                raise _RowError(question.key, "another row asks the same, of a category with another temperature")
        except _RowError as error:
            fix = f"take the question file of the benchmark as it is published ({_SHAPES[benchmark]} in each row)"
            yield Problem(f"{place}, row {number}", error.value, error.rule, fix, "WRPO-D061")
        else:
            known.add(question.key)
            yield question
    if not number:
        yield Problem(place, "0 rows", "there must be at least one question", "correct the path", "WRPO-D060")


def _rows(path: Path, text: str) -> Iterator[Any]:
    """Yield the rows of a JSON list or of JSON lines; what is no JSON comes as the error that says so."""
    if path.suffix == ".json":
        try:
            rows = json.loads(text)
        except (ValueError, RecursionError) as error:
            rows = [error]
        yield from rows if isinstance(rows, list) else [rows]
        return
    # Not splitlines: it also cuts at characters that JSON strings may hold as they are.
    for line in text.split("\n"):
        if line.strip():
            try:
                yield json.loads(line)
            except (ValueError, RecursionError) as error:
                yield error


def _mapping(row: Any) -> Mapping[str, Any]:
    if isinstance(row, ValueError | RecursionError):
        raise _RowError(None, f"the row is not JSON: {row}")
    if not isinstance(row, dict):
        raise _RowError(row, "the row must hold a JSON object")
    return row


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise _RowError(value, f"`{name}` must be text")
    return value


def _key(row: Mapping[str, Any], name: str) -> str | int:
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise _RowError(value, f"`{name}` must be an id: text or an integer")
    return value


def _turns(row: Mapping[str, Any], benchmark: Benchmark) -> tuple[str, ...]:
    turns, expected = row.get("turns"), _NUM_TURNS[benchmark]
    if not isinstance(turns, list) or len(turns) != expected:
        raise _RowError(turns, f"`turns` must be a list of {expected}")
    return tuple(_text(turn if isinstance(turn, dict) else {"content": turn}, "content") for turn in turns)


def _alpaca_eval(row: Mapping[str, Any]) -> Question:
    instruction = _text(row, "instruction")
    dataset = row.get("dataset")
    # AlpacaEval has no ids: its package joins by the instruction.
    return Question("alpaca_eval", instruction, (instruction,), dataset if isinstance(dataset, str) else None)


def _arena_hard_v0_1(row: Mapping[str, Any]) -> Question:
    return Question("arena_hard_v0_1", _key(row, "question_id"), _turns(row, "arena_hard_v0_1"))


def _arena_hard_v2(row: Mapping[str, Any]) -> Question:
    return Question("arena_hard_v2", _key(row, "uid"), (_text(row, "prompt"),))


def _mt_bench(row: Mapping[str, Any]) -> Question:
    turns, temperature = _turns(row, "mt_bench"), _mt_bench_temperature(row)
    return Question("mt_bench", _key(row, "question_id"), turns, temperature=temperature)


def _mt_bench_temperature(row: Mapping[str, Any]) -> float:
    """Return the temperature of a question in FastChat's order: its own, that of its category, that of any other."""
    required = row.get("required_temperature")
    if required is None:
        return MT_BENCH_TEMPERATURES.get(_text(row, "category"), _OTHER_CATEGORY)
    if isinstance(required, bool) or not isinstance(required, int | float) or not 0.0 <= required < math.inf:
        raise _RowError(required, "`required_temperature` must be a number, 0 or more")
    return float(required)


_PARSERS: Mapping[Benchmark, Callable[[Mapping[str, Any]], Question]] = {
    "alpaca_eval": _alpaca_eval,
    "arena_hard_v0_1": _arena_hard_v0_1,
    "arena_hard_v2": _arena_hard_v2,
    "mt_bench": _mt_bench,
}
_SHAPES: Mapping[Benchmark, str] = {
    "alpaca_eval": "{instruction, dataset}",
    "arena_hard_v0_1": "{question_id, turns: [{content}]}",
    "arena_hard_v2": "{uid, prompt}",
    "mt_bench": "{question_id, category, turns: [first, second]}",
}
