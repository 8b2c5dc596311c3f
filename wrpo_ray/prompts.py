"""Prompts from files to typed rows: checked, told apart by content, split, and in an order of their own.

Where a prompt stands in its file changes nothing: rows are sorted by prompt_id and the split is a hash of it. However
many they are, a batch of them is in memory and the rest in a temporary file (sorted_prompts).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from wrpo_ray.config import PromptsConfig
from wrpo_ray.control_text import holds_control_text
from wrpo_ray.errors import DataError, Problem
from wrpo_ray.prompt_files import FileRow, InvalidText, column_hint, described, read_rows, row_place, shown
from wrpo_ray.prompt_layout import write_prompts
from wrpo_ray.schema import Message, Prompt, Split, prompt_id, stable_hash
from wrpo_ray.sorted_prompts import Conflict, Origin, PromptSorter, SortedPrompts
from wrpo_ray.steps import StepResult
from wrpo_ray.storage.location import Location

_ROLES = ("system", "user", "assistant")
_MAX_SHOWN = 20
_MAX_CHARACTERS = 2**24
_LARGEST_EXACT_INTEGER = 2**53


@dataclass(frozen=True)
class PromptSet:
    """Distinct prompts in order of prompt_id; `num_rows` were read, `num_duplicates` of them repeat another one.

    num_dropped: left out for control tokens in their text; None where that is not asked for.
    """

    prompts: SortedPrompts
    num_rows: int
    num_duplicates: int
    num_dropped: int | None = None

    def write(self, folder: Location) -> StepResult:
        """Write the prompts as files for all later steps; see prompt_layout."""
        of_split = self.prompts.num_by_split
        summary = {
            "num_rows": self.num_rows,
            "num_duplicates": self.num_duplicates,
            "num_prompts": len(self.prompts),
            "num_sft": of_split.get("sft", 0),
            "num_preference": of_split.get("preference", 0),
            **({} if self.num_dropped is None else {"num_dropped_for_control_tokens": self.num_dropped}),
        }
        return StepResult(write_prompts(folder, self.prompts.tables()), summary)


class _RowError(ValueError):
    """A rule that one row breaks."""

    def __init__(self, value: Any, rule: str, fix: str, code: str) -> None:
        super().__init__(rule)
        self.value, self.rule, self.fix, self.code = described(value), rule, fix, code

    def at(self, place: str) -> Problem:
        return Problem(place, self.value, self.rule, self.fix, self.code)


def load_prompts(section: PromptsConfig, answers_required: bool = False) -> PromptSet:
    """Return the distinct prompts that `section` names.

    Raises DataError that lists what is wrong, each with file and row.
    """
    prompt_set, problems = read_prompts(section, answers_required)
    if problems:
        raise DataError.of(f"cannot use the prompts of {section.path}", problems)
    return prompt_set


def check_prompts(section: PromptsConfig, answers_required: bool = False) -> list[Problem]:
    """Return everything that is wrong with the prompts of `section`: at most 20 problems and a count of the rest."""
    return read_prompts(section, answers_required)[1]


def read_prompts(section: PromptsConfig, answers_required: bool = False) -> tuple[PromptSet, list[Problem]]:
    """Return the prompts that can be used, and the problems of the others as in check_prompts."""
    sorter, problems, files = PromptSorter(), _Problems(), dict[Path, int]()
    columns = [section.column, *([section.answer_column] if section.answer_column else [])]
    num_rows = num_dropped = 0
    for order, row in enumerate(read_rows(section.path, columns)):
        if isinstance(row, Problem):
            problems.add(order, row)
            continue
        num_rows += 1
        try:
            prompt = _to_prompt(row, section, answers_required)
        except _RowError as error:
            problems.add(order, error.at(row.place))
            continue
        if section.control_tokens == "drop" and _holds_control_text(prompt.messages):
            num_dropped += 1
        else:
            sorter.add(prompt, Origin(order, files.setdefault(row.file, len(files)), row.number))
    if num_rows == num_dropped and not problems.number:
        rule = "there must be at least one prompt" + (" without control tokens in its text" if num_rows else "")
        problems.add(0, Problem(section.path, f"{num_rows} rows", rule, "correct the path", "WRPO-D009"))
    paths = list(files)
    prompts = sorter.finish(lambda conflict: problems.add(conflict.origin.order, _other_answer(conflict, paths)))
    num_duplicates = num_rows - num_dropped - len(prompts) if not problems.number else 0
    told = num_dropped if section.control_tokens == "drop" else None
    return PromptSet(prompts, num_rows, num_duplicates, told), problems.shown(section.path)


class _Problems:
    """The first problems in the order of reading, in whatever order they are found, and the number of all."""

    def __init__(self) -> None:
        self.number = 0
        self._first: list[tuple[int, Problem]] = []

    def add(self, order: int, problem: Problem) -> None:
        self.number += 1
        self._first.append((order, problem))
        if len(self._first) > 2 * _MAX_SHOWN:
            self._keep_first()

    def _keep_first(self) -> None:
        self._first = sorted(self._first, key=lambda found: found[0])[:_MAX_SHOWN]

    def shown(self, path: str) -> list[Problem]:
        self._keep_first()
        problems = [problem for _, problem in self._first]
        if self.number > len(problems):
            rule, fix = "further rows break these rules too", "repair the ones above and try again"
            problems.append(Problem(path, f"{self.number - len(problems)} more", rule, fix, "WRPO-D015"))
        return problems


def split_of(identity: str, sft_fraction: float) -> Split:
    """Return the part of the run that a prompt belongs to, by its prompt_id alone."""
    return "sft" if stable_hash("split", identity) / 2**64 < sft_fraction else "preference"


def _to_prompt(row: FileRow, section: PromptsConfig, answers_required: bool) -> Prompt:
    messages = list(_messages(_value(row, section.column)))
    if section.control_tokens == "refuse" and _holds_control_text(messages):
        rule = "the prompt holds what looks like a control token of a chat model"
        raise _RowError(messages, rule, "repair the text, or set `control_tokens` to neutralise or drop", "WRPO-D052")
    answer = None
    if section.answer_column is not None:
        answer = _answer(_value(row, section.answer_column), answers_required)
    identity = prompt_id(messages)
    return Prompt(identity, messages, split_of(identity, section.sft_fraction), answer)


def _holds_control_text(messages: Sequence[Message]) -> bool:
    return holds_control_text(message["content"] for message in messages)


def _other_answer(conflict: Conflict, paths: list[Path]) -> Problem:
    place, first = (row_place(paths[origin.file], origin.row) for origin in (conflict.origin, conflict.first))
    rule, fix = f"the same prompt has another answer in {first}", "keep one of the two rows"
    return Problem(place, described(conflict.answer), rule, fix, "WRPO-D013")


def _value(row: FileRow, column: str) -> Any:
    if column not in row.values:
        raise _RowError(None, f"the row has no `{column}`", column_hint(column, list(row.values)), "WRPO-D005")
    return row.values[column]


def _messages(value: Any) -> Iterator[dict[str, str]]:
    """Yield the checked messages of one prompt, each with `role` and `content` alone, in this order."""
    if isinstance(value, str | InvalidText):
        yield {"role": "user", "content": _text(value, "the prompt")}
        return
    if not isinstance(value, list) or not value:
        rule = "a prompt must be text or a list of {role, content}"
        raise _RowError(value, rule, "correct the row, or choose another `column`", "WRPO-D010")
    for index, message in enumerate(value):
        yield _message(message, index, is_last=index == len(value) - 1)


def _message(message: Any, index: int, is_last: bool) -> dict[str, str]:
    if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
        raise _RowError(message, f"message {index + 1} must be {{role, content}}", "add what is missing", "WRPO-D010")
    extra = sorted(key for key in message.keys() - {"role", "content"} if message[key] is not None)
    if extra:
        rule = f"message {index + 1} holds more than role and content: {shown(extra)}"
        raise _RowError(message, rule, "remove the other fields", "WRPO-D010")
    role = message["role"]
    if role not in _ROLES:
        rule = f"the role of message {index + 1} must be one of {', '.join(_ROLES)}; it is {shown(role, 20)}"
        raise _RowError(role, rule, "rename the role", "WRPO-D010")
    if role == "system" and index > 0:
        rule = f"message {index + 1} is a system message; only the first may be one"
        raise _RowError(role, rule, "move it", "WRPO-D010")
    if is_last and role != "user":
        rule = "the last message must be from the user: the model answers it"
        raise _RowError(role, rule, "cut what follows it", "WRPO-D010")
    return {"role": role, "content": _text(message["content"], f"the content of message {index + 1}")}


def _text(value: Any, what: str) -> str:
    if isinstance(value, InvalidText):
        raise _RowError(value, f"{what} is not valid UTF-8", "save the file again as UTF-8", "WRPO-D008")
    if not isinstance(value, str):
        raise _RowError(value, f"{what} must be text", "write it as text", "WRPO-D010")
    if not value.strip():
        raise _RowError(value, f"{what} is empty", "remove the row", "WRPO-D011")
    if len(value) > _MAX_CHARACTERS:
        rule = f"{what} has more than {_MAX_CHARACTERS} characters, more than any model reads"
        raise _RowError(value, rule, "cut it, or remove the row", "WRPO-D050")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        found = f"lone surrogate U+{ord(value[error.start]):04X} at character {error.start + 1}"
        rule = f"{what} is not valid Unicode: {found}"
        raise _RowError(value, rule, "repair the text at its origin", "WRPO-D012") from error
    return value


def _answer(value: Any, required: bool) -> str | None:
    if value is None:
        if required:
            rule = "the verifier needs an answer in every row"
            raise _RowError(None, rule, "add the answer or remove the row", "WRPO-D014")
        return None
    if isinstance(value, str | InvalidText):
        return _text(value, "the answer")
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal) or not math.isfinite(value):
        raise _RowError(value, "the answer must be text or a finite number", "write it as text", "WRPO-D014")
    if isinstance(value, float) and value.is_integer() and abs(value) < _LARGEST_EXACT_INTEGER:
        # A column of integers with gaps in it is stored as floats by many tools; 42.0 was meant as 42.
        return str(int(value))
    return str(value)
