"""Rows of text to rows of token ids, once on the driver; workers read the Parquet file that comes of it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from wrpo_ray.batching import cut_response
from wrpo_ray.chat import ChatTokenizer
from wrpo_ray.config import TrainConfig
from wrpo_ray.errors import DataError
from wrpo_ray.schema import Quadruple, ReferenceLogps, SFTExample
from wrpo_ray.storage.location import Location
from wrpo_ray.storage.manifest import FileEntry
from wrpo_ray.storage.tables import verified_bytes, write_table

log = logging.getLogger(__name__)

QUADRUPLE_RESPONSES = ("source_chosen", "target_chosen", "rejected")
SFT_RESPONSES = ("response",)
RESPONSES_OF = {"sft": SFT_RESPONSES, "reference": QUADRUPLE_RESPONSES, "wrpo": QUADRUPLE_RESPONSES}
_MAX_NAMED = 10

TokenRow = dict[str, Any]


@dataclass(frozen=True)
class TokenCounts:
    """Rows kept, rows left out for their prompt's length or by the chat template, and responses cut at max_length."""

    num_rows: int
    num_rows_too_long_prompt: int
    num_rows_refused_by_template: int
    num_responses_cut: int


def tokenise(
    rows: Sequence[SFTExample] | Sequence[Quadruple], responses: Sequence[str], chat: ChatTokenizer, train: TrainConfig
) -> tuple[list[TokenRow], TokenCounts]:
    """Return each row as prompt_id, `prompt` ids and one list of ids per response, with counts of what did not fit.

    Raises DataError when no row is left.
    """
    kept: list[TokenRow] = []
    refused: list[str] = []
    num_cut = 0
    for row in rows:
        try:
            prompt, encoded = _encode(row, responses, chat)
        except DataError as error:
            log.warning("prompt %s is left out: %s", row.prompt_id, error)
            refused.append(row.prompt_id)
            continue
        if len(prompt) > train.max_prompt_length:
            continue
        cut = {name: cut_response(len(prompt), ids, train.max_length) for name, ids in encoded.items()}
        num_cut += sum(len(cut[name]) < len(encoded[name]) for name in responses)
        kept.append({"prompt_id": row.prompt_id, "prompt": prompt, **cut})
    counts = TokenCounts(len(kept), len(rows) - len(kept) - len(refused), len(refused), num_cut)
    log.info(
        "%d rows; %d left out (prompt over %d tokens); %d responses cut at %d tokens with their prompt",
        counts.num_rows, counts.num_rows_too_long_prompt, train.max_prompt_length, num_cut, train.max_length,
    )  # fmt: skip
    if not kept:
        raise DataError(f"none of {len(rows)} rows has a prompt of at most {train.max_prompt_length} tokens")
    return kept, counts


def _encode(
    row: SFTExample | Quadruple, responses: Sequence[str], chat: ChatTokenizer
) -> tuple[list[int], dict[str, list[int]]]:
    """Return the ids of the prompt and of each response; a response that was cut when it was drawn has no end token."""
    reasons = {name: f"{name}_finish_reason" if isinstance(row, Quadruple) else "finish_reason" for name in responses}
    encoded = {
        name: chat.encode_response(getattr(row, name), finished=getattr(row, reasons[name]) != "length")
        for name in responses
    }
    return chat.encode_prompt(row.messages), encoded


def join_reference(rows: Sequence[TokenRow], reference: Sequence[ReferenceLogps]) -> list[TokenRow]:
    """Return `rows` with the reference's log-probs added, joined by prompt_id.

    Raises DataError, naming up to ten prompt_ids, when one is missing or was made with other token counts.
    """
    found = {row.prompt_id: row for row in reference}
    missing = [row["prompt_id"] for row in rows if row["prompt_id"] not in found]
    if missing:
        raise DataError(f"{len(missing)} rows have no reference log-probs: {name_some(missing)}")
    other = [row["prompt_id"] for row in rows if _lengths(row) != _reference_lengths(found[row["prompt_id"]])]
    if other:
        raise DataError(f"{len(other)} rows were tokenised differently for the reference: {name_some(other)}")
    columns = [f"{name}_logps" for name in QUADRUPLE_RESPONSES]
    return [{**row, **{column: getattr(found[row["prompt_id"]], column) for column in columns}} for row in rows]


def name_some(prompt_ids: Sequence[str]) -> str:
    """Return up to ten prompt_ids as text."""
    more = f" and {len(prompt_ids) - _MAX_NAMED} more" if len(prompt_ids) > _MAX_NAMED else ""
    return ", ".join(prompt_ids[:_MAX_NAMED]) + more


def _lengths(row: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(len(row[name]) for name in QUADRUPLE_RESPONSES)


def _reference_lengths(row: ReferenceLogps) -> tuple[int, ...]:
    return tuple(getattr(row, f"{name}_num_tokens") for name in QUADRUPLE_RESPONSES)


def write_tokens(folder: Location, rows: Sequence[TokenRow], responses: Sequence[str]) -> FileEntry:
    """Write tokenised rows, with log-probs of the reference where they have them, for `TokenTable` to read.

    Equal rows give equal bytes: the entry's hash names what a training run goes through.
    """
    fields = [pa.field("prompt_id", pa.string())]
    fields += [pa.field(name, pa.list_(pa.int32())) for name in ("prompt", *responses)]
    fields += [pa.field(f"{name}_logps", pa.float64()) for name in responses if f"{name}_logps" in rows[0]]
    return write_table(folder, "tokens.parquet", pa.Table.from_pylist(list(rows), schema=pa.schema(fields)))


class TokenTable:
    """Tokenised rows by index; they stay in Arrow's memory until a batch asks for them.

    Raises StorageError when the file is not the one that `write_tokens` wrote.
    """

    def __init__(self, folder: Location, entry: FileEntry, responses: Sequence[str]) -> None:
        self.table = pq.read_table(pa.BufferReader(verified_bytes(folder, entry))).combine_chunks()
        self.responses = tuple(responses)
        # Response tokens of every row: what the loss of SFT is divided by, known to all ranks without talking.
        self.num_tokens = {name: self._lengths(name) for name in responses}
        self.num_prompt_tokens = self._lengths("prompt")
        # Log-probs that the rows came with, None where a row has none.
        self.logps: dict[str, list[float | None]] = {
            name: self.table[column].to_pylist()
            for name in responses
            if (column := f"{name}_logps") in self.table.column_names
        }

    def _lengths(self, column: str) -> list[int]:
        return self.table[column].combine_chunks().value_lengths().to_pylist()

    @property
    def prompt_ids(self) -> list[str]:
        """The key of every row."""
        return self.table["prompt_id"].to_pylist()

    def rows(self, indices: Sequence[int]) -> list[TokenRow]:
        """Return the rows at `indices`, in that order."""
        return self.table.take(list(indices)).to_pylist()

    def count(self, indices: Sequence[int]) -> int:
        """Return the response tokens of the rows at `indices`, all responses together."""
        return sum(lengths[index] for lengths in self.num_tokens.values() for index in indices)
