"""Answers to benchmark questions in the formats that the benchmarks' own packages read.

Checked against alpaca_eval 0.6.6, fschat 0.2.36, and https://github.com/lmarena/arena-hard-auto (gen_answer.py,
utils/completion.py, show_result.py). Their `token_len` counts tokens of an OpenAI tokenizer; ours counts those of the
model that answered: arena-hard-auto's utils/add_markdown_info.py counts anew where that matters (style control).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wrpo_ray.benchmark_questions import Benchmark, Question

_CODE_BLOCK = re.compile(r"```([^`]*)```")
_ANSWER_ID_DIGITS = 22


@dataclass(frozen=True)
class Answer:
    """What a model said in each turn of a question, and how many of its own tokens that took."""

    question: Question
    turns: tuple[str, ...]
    num_tokens: tuple[int, ...]


def alpaca_eval(model: str, answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """Return the rows of AlpacaEval 2's `model_outputs`: one JSON list, joined with the reference by instruction."""
    return [
        {
            "dataset": answer.question.dataset,
            "instruction": answer.question.turns[0],
            "output": answer.turns[0],
            "generator": model,
        }
        for answer in answers
    ]


def arena_hard_v0_1(model: str, answers: Sequence[Answer], now_s: float) -> list[dict[str, Any]]:
    """Return the lines of Arena-Hard v0.1's model_answer/<model>.jsonl; now_s: seconds since 1970."""
    return [
        {
            **_fastchat_head(model, answer),
            "choices": [{"index": 0, "turns": [_v0_1_turn(answer)]}],
            "tstamp": now_s,
            "conv_metadata": style(answer.turns[0], answer.num_tokens[0]),
        }
        for answer in answers
    ]


def _v0_1_turn(answer: Answer) -> dict[str, Any]:
    # Its first release read the length here, later ones in conv_metadata.
    return {"content": answer.turns[0], "token_len": answer.num_tokens[0]}


def arena_hard_v2(model: str, answers: Sequence[Answer], now_s: float) -> list[dict[str, Any]]:
    """Return the lines of Arena-Hard v2's model_answer/<model>.jsonl; now_s: seconds since 1970."""
    return [
        {
            "uid": answer.question.key,
            "ans_id": _answer_id(model, answer),
            "model": model,
            "messages": [
                *answer.question.first_messages,
                {"role": "assistant", "content": {"answer": answer.turns[0]}},
            ],
            "tstamp": now_s,
            "metadata": style(answer.turns[0], answer.num_tokens[0]),
        }
        for answer in answers
    ]


def mt_bench(model: str, answers: Sequence[Answer], now_s: float) -> list[dict[str, Any]]:
    """Return the lines of FastChat's model_answer/<model>.jsonl; now_s: seconds since 1970."""
    return [
        {
            **_fastchat_head(model, answer),
            "choices": [{"index": 0, "turns": list(answer.turns)}],
            "tstamp": now_s,
        }
        for answer in answers
    ]


def line(row: Mapping[str, Any]) -> bytes:
    """Return one line of a JSON lines file."""
    return (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8")


def file_of(benchmark: Benchmark, model: str) -> str:
    """Return where a model's answers belong, below the folder of all answers, as the benchmark's package looks."""
    folder = {
        "alpaca_eval": "alpaca_eval",
        "arena_hard_v0_1": "arena-hard-v0.1/model_answer",
        "arena_hard_v2": "arena-hard-v2.0/model_answer",
        "mt_bench": "mt_bench/model_answer",
    }[benchmark]
    return f"{folder}/{model}.{'json' if benchmark == 'alpaca_eval' else 'jsonl'}"


def style(text: str, num_tokens: int) -> dict[str, Any]:
    """Return the counts that Arena-Hard's style control reads: length, and Markdown outside of code blocks."""
    prose = text
    for block in _CODE_BLOCK.findall(text):
        prose = prose.replace(block, "")

    def count(pattern: str) -> int:
        return len(re.findall(pattern, prose, re.MULTILINE))

    return {
        "token_len": num_tokens,
        "header_count": {f"h{level}": count(rf"^#{{{level}}}\s") for level in range(1, 7)},
        "list_count": {"ordered": count(r"^\s*\d+\.\s"), "unordered": count(r"^\s*[-*+]\s")},
        "bold_count": {"**": count(r"\*\*[^*\n]+\*\*"), "__": count(r"__[^_\n]+__")},
    }


def _fastchat_head(model: str, answer: Answer) -> Mapping[str, Any]:
    return {"question_id": answer.question.key, "answer_id": _answer_id(model, answer), "model_id": model}


def _answer_id(model: str, answer: Answer) -> str:
    """Return an id that is the same for the same answer; the packages draw one at random."""
    parts = (model, answer.question.benchmark, str(answer.question.key), *answer.turns)
    return hashlib.sha256("\0".join(parts).encode("utf-8")).hexdigest()[:_ANSWER_ID_DIGITS]
