"""Stored examples to tokenised rows, with a count of what does not fit."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from wrpo_ray.batching import TokenizedRow, tokenize_row
from wrpo_ray.chat import ChatTokenizer
from wrpo_ray.config import TrainConfig
from wrpo_ray.errors import DataError
from wrpo_ray.schema import Message, Quadruple, SFTExample
from wrpo_ray.storage import read_rows

log = logging.getLogger(__name__)
_MAX_NAMED = 10


@dataclass(frozen=True)
class TokenizedData:
    """Rows in the order of their prompt_id, prompts left out for their length, and the number of cut responses."""

    rows: list[TokenizedRow]
    too_long: list[str]
    num_responses_cut: int


def load_sft_rows(folder: Path, chat: ChatTokenizer, train: TrainConfig) -> TokenizedData:
    """Return the tokenised examples of the finished step in `folder`."""
    examples = read_rows(folder, SFTExample)
    return _tokenize(((row.prompt_id, row.messages, [row.response]) for row in examples), chat, train)


def load_quadruple_rows(folder: Path, chat: ChatTokenizer, train: TrainConfig) -> TokenizedData:
    """Return the tokenised quadruples of the finished step in `folder`; responses: y_ws, y_wt, y_l."""
    quadruples = read_rows(folder, Quadruple)
    triples = (
        (row.prompt_id, row.messages, [row.source_chosen, row.target_chosen, row.rejected]) for row in quadruples
    )
    return _tokenize(triples, chat, train)


def _tokenize(
    examples: Iterable[tuple[str, list[dict[str, str]], list[str]]], chat: ChatTokenizer, train: TrainConfig
) -> TokenizedData:
    rows: list[TokenizedRow] = []
    too_long: list[str] = []
    num_responses_cut = 0
    for prompt_id, messages, responses in examples:
        row, num_cut = _tokenize_one(prompt_id, messages, responses, chat, train)
        num_responses_cut += num_cut
        if row is None:
            too_long.append(prompt_id)
        else:
            rows.append(row)
    if not rows:
        raise DataError(
            f"all {len(too_long)} prompts are longer than max_prompt_length = {train.max_prompt_length} tokens"
        )
    if too_long:
        shown = ", ".join(too_long[:_MAX_NAMED])
        log.warning("%d rows have prompts over %d tokens: %s", len(too_long), train.max_prompt_length, shown)
    return TokenizedData(sorted(rows, key=lambda row: row.prompt_id), too_long, num_responses_cut)


def _tokenize_one(
    prompt_id: str, messages: list[dict[str, str]], responses: list[str], chat: ChatTokenizer, train: TrainConfig
) -> tuple[TokenizedRow | None, int]:
    conversation: list[Message] = list(messages)
    return tokenize_row(prompt_id, conversation, responses, chat, train.max_length, train.max_prompt_length)
