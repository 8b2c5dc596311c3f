"""Prompts from files to typed rows: checked, told apart by content, split, and in an order of their own.

Where a prompt stands in its file changes nothing: rows are sorted by prompt_id and the split is a hash of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from wrpo_ray.config import PromptsConfig
from wrpo_ray.errors import DataError, Problem
from wrpo_ray.prompt_files import FileRow, InvalidText, column_hint, described, read_rows, shown
from wrpo_ray.schema import Prompt, Split, prompt_id, stable_hash

_ROLES = ("system", "user", "assistant")
_MAX_SHOWN = 20
_LARGEST_EXACT_INTEGER = 2**53


@dataclass(frozen=True)
class PromptSet:
    """Distinct prompts in order of prompt_id; `num_rows` were read, `num_duplicates` of them repeat another one."""

    prompts: list[Prompt]
    num_rows: int
    num_duplicates: int


class _RowError(ValueError):
    """A rule that one row breaks."""

    def __init__(self, value: Any, rule: str, fix: str, code: str) -> None:
        super().__init__(rule)
        self.value, self.rule, self.fix, self.code = described(value), rule, fix, code


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
    columns = [section.column, *([section.answer_column] if section.answer_column else [])]
    distinct: dict[str, tuple[Prompt, FileRow]] = {}
    problems: list[Problem] = []
    num_rows = 0
    for row in read_rows(section.path, columns):
        if isinstance(row, Problem):
            problems.append(row)
            continue
        num_rows += 1
        try:
            prompt = _to_prompt(row, section, answers_required)
            _refuse_other_answer(prompt, distinct)
        except _RowError as error:
            problems.append(Problem(row.place, error.value, error.rule, error.fix, error.code))
        else:
            distinct.setdefault(prompt.prompt_id, (prompt, row))
    if not num_rows and not problems:
        rule = "there must be at least one prompt"
        problems.append(Problem(section.path, "0 rows", rule, "correct the path", "WRPO-D009"))
    prompts = [prompt for _, (prompt, _) in sorted(distinct.items())]
    num_duplicates = num_rows - len(prompts) if not problems else 0
    return PromptSet(prompts, num_rows, num_duplicates), _shortened(problems, section.path)


def split_of(identity: str, sft_fraction: float) -> Split:
    """Return the part of the run that a prompt belongs to, by its prompt_id alone."""
    return "sft" if stable_hash("split", identity) / 2**64 < sft_fraction else "preference"


def _shortened(problems: list[Problem], path: str) -> list[Problem]:
    hidden = len(problems) - _MAX_SHOWN
    if hidden <= 0:
        return problems
    rule, fix = "further rows break these rules too", "repair the ones above and try again"
    rest = Problem(path, f"{hidden} more", rule, fix, "WRPO-D015")
    return [*problems[:_MAX_SHOWN], rest]


def _to_prompt(row: FileRow, section: PromptsConfig, answers_required: bool) -> Prompt:
    messages = list(_messages(_value(row, section.column)))
    answer = None
    if section.answer_column is not None:
        answer = _answer(_value(row, section.answer_column), answers_required)
    identity = prompt_id(messages)
    return Prompt(identity, messages, split_of(identity, section.sft_fraction), answer)


def _refuse_other_answer(prompt: Prompt, distinct: dict[str, tuple[Prompt, FileRow]]) -> None:
    if prompt.prompt_id not in distinct:
        return
    first, row = distinct[prompt.prompt_id]
    if first.answer != prompt.answer:
        rule = f"the same prompt has another answer in {row.place}"
        raise _RowError(prompt.answer, rule, "keep one of the two rows", "WRPO-D013")


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
