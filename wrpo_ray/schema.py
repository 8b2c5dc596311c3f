"""The rows that flow between steps, each type beside its Arrow schema.

A stage has its own row type; nothing is filled in later. Rows are joined by `prompt_id`, never by position.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

import pyarrow as pa

Split = Literal["sft", "preference"]
Message = Mapping[str, str]

MESSAGES_TYPE = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))


def prompt_id(messages: Sequence[Message]) -> str:
    """Return the content hash of a prompt: 32 hex digits of SHA-256 over its canonical JSON.

    Nothing is normalised (no NFC, no trimming): prompts that differ in one byte are two prompts.
    """
    canonical = json.dumps([[m["role"], m["content"]] for m in messages], ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(b"wrpo-prompt-v1\0" + canonical.encode("utf-8")).hexdigest()[:32]


def stable_hash(*parts: str | int) -> int:
    """Return a 64-bit hash of `parts` that is the same on every machine and in every process."""
    text = json.dumps(parts, ensure_ascii=True, separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode("ascii")).digest()[:8], "big")


@dataclass(frozen=True, slots=True)
class Prompt:
    """One distinct prompt; `answer` is the reference answer that a verifier compares with, when there is one."""

    prompt_id: str
    messages: list[dict[str, str]]
    split: Split
    answer: str | None

    SCHEMA: ClassVar[pa.Schema] = pa.schema(
        [
            pa.field("prompt_id", pa.string(), nullable=False),
            pa.field("messages", MESSAGES_TYPE, nullable=False),
            pa.field("split", pa.string(), nullable=False),
            pa.field("answer", pa.string()),
        ]
    )


@dataclass(frozen=True, slots=True)
class Response:
    """One sample of one model for one prompt; `source` is the model's name in the config."""

    prompt_id: str
    source: str
    sample_index: int
    text: str
    token_ids: list[int]
    finish_reason: str
    num_tokens: int

    SCHEMA: ClassVar[pa.Schema] = pa.schema(
        [
            pa.field("prompt_id", pa.string(), nullable=False),
            pa.field("source", pa.string(), nullable=False),
            pa.field("sample_index", pa.int32(), nullable=False),
            pa.field("text", pa.string(), nullable=False),
            pa.field("token_ids", pa.list_(pa.int32()), nullable=False),
            pa.field("finish_reason", pa.string(), nullable=False),
            pa.field("num_tokens", pa.int32(), nullable=False),
        ]
    )


@dataclass(frozen=True, slots=True)
class ResponseWithLogps(Response):
    """A response with the summed log-prob of its `token_ids` under its model, before temperature, top_p and penalties.

    Who reads such a file as `Response` does not see the column.
    """

    logps: float

    SCHEMA: ClassVar[pa.Schema] = Response.SCHEMA.append(pa.field("logps", pa.float64(), nullable=False))


@dataclass(frozen=True, slots=True)
class ScoredResponse:
    """A response and its raw reward, which may be non-finite: selection never chooses such a one."""

    prompt_id: str
    source: str
    sample_index: int
    text: str
    finish_reason: str
    num_tokens: int
    reward: float

    SCHEMA: ClassVar[pa.Schema] = pa.schema(
        [
            pa.field("prompt_id", pa.string(), nullable=False),
            pa.field("source", pa.string(), nullable=False),
            pa.field("sample_index", pa.int32(), nullable=False),
            pa.field("text", pa.string(), nullable=False),
            pa.field("finish_reason", pa.string(), nullable=False),
            pa.field("num_tokens", pa.int32(), nullable=False),
            pa.field("reward", pa.float64(), nullable=False),
        ]
    )


@dataclass(frozen=True, slots=True)
class SFTExample:
    """The best source response of one prompt of the SFT split; `finish_reason` is "length" when it is not over."""

    prompt_id: str
    messages: list[dict[str, str]]
    response: str
    source: str
    reward: float
    finish_reason: str

    SCHEMA: ClassVar[pa.Schema] = pa.schema(
        [
            pa.field("prompt_id", pa.string(), nullable=False),
            pa.field("messages", MESSAGES_TYPE, nullable=False),
            pa.field("response", pa.string(), nullable=False),
            pa.field("source", pa.string(), nullable=False),
            pa.field("reward", pa.float64(), nullable=False),
            pa.field("finish_reason", pa.string(), nullable=False),
        ]
    )


@dataclass(frozen=True, slots=True)
class Quadruple:
    """(x, y_ws, y_wt, y_l): prompt, best source, best target and worst target response, with their rewards.

    A finish reason "length" says that the response was cut at max_tokens: it gets no end token in training.
    """

    prompt_id: str
    messages: list[dict[str, str]]
    source_chosen: str
    target_chosen: str
    rejected: str
    source: str
    source_chosen_reward: float
    target_chosen_reward: float
    rejected_reward: float
    source_chosen_finish_reason: str
    target_chosen_finish_reason: str
    rejected_finish_reason: str

    SCHEMA: ClassVar[pa.Schema] = pa.schema(
        [
            pa.field("prompt_id", pa.string(), nullable=False),
            pa.field("messages", MESSAGES_TYPE, nullable=False),
            pa.field("source_chosen", pa.string(), nullable=False),
            pa.field("target_chosen", pa.string(), nullable=False),
            pa.field("rejected", pa.string(), nullable=False),
            pa.field("source", pa.string(), nullable=False),
            pa.field("source_chosen_reward", pa.float64(), nullable=False),
            pa.field("target_chosen_reward", pa.float64(), nullable=False),
            pa.field("rejected_reward", pa.float64(), nullable=False),
            pa.field("source_chosen_finish_reason", pa.string(), nullable=False),
            pa.field("target_chosen_finish_reason", pa.string(), nullable=False),
            pa.field("rejected_finish_reason", pa.string(), nullable=False),
        ]
    )


@dataclass(frozen=True, slots=True)
class ReferenceLogps:
    """Summed log-probs of the three responses under Target-SFT, and their numbers of response tokens."""

    prompt_id: str
    source_chosen_logps: float
    target_chosen_logps: float
    rejected_logps: float
    source_chosen_num_tokens: int
    target_chosen_num_tokens: int
    rejected_num_tokens: int

    SCHEMA: ClassVar[pa.Schema] = pa.schema(
        [
            pa.field("prompt_id", pa.string(), nullable=False),
            pa.field("source_chosen_logps", pa.float64(), nullable=False),
            pa.field("target_chosen_logps", pa.float64(), nullable=False),
            pa.field("rejected_logps", pa.float64(), nullable=False),
            pa.field("source_chosen_num_tokens", pa.int32(), nullable=False),
            pa.field("target_chosen_num_tokens", pa.int32(), nullable=False),
            pa.field("rejected_num_tokens", pa.int32(), nullable=False),
        ]
    )


Row = TypeVar("Row", Prompt, Response, ResponseWithLogps, ScoredResponse, SFTExample, Quadruple, ReferenceLogps)


def to_table(rows: Iterable[Row], row_type: type[Row]) -> pa.Table:
    """Return `rows` as a table with the schema of their type."""
    names = [field.name for field in dataclasses.fields(row_type)]
    return pa.Table.from_pylist([{name: getattr(row, name) for name in names} for row in rows], schema=row_type.SCHEMA)


def to_rows(table: pa.Table, row_type: type[Row]) -> list[Row]:
    """Return the rows of `table`, which must have the schema of `row_type`."""
    records: list[dict[str, Any]] = table.select(row_type.SCHEMA.names).to_pylist()
    return [row_type(**record) for record in records]
