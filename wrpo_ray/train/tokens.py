"""Rows of text to rows of token ids, once before training; workers read the Parquet file that comes of it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from wrpo_ray.batching import cut_response
from wrpo_ray.chat import ChatTokenizer
from wrpo_ray.config import TrainConfig
from wrpo_ray.errors import DataError
from wrpo_ray.schema import Quadruple, SFTExample
from wrpo_ray.storage.location import Location
from wrpo_ray.storage.manifest import FileEntry
from wrpo_ray.storage.tables import verified_bytes
from wrpo_ray.train.token_file import IdDigest, TokenRow, token_writer

log = logging.getLogger(__name__)

QUADRUPLE_RESPONSES = ("source_chosen", "target_chosen", "rejected")
SFT_RESPONSES = ("response",)
RESPONSES_OF = {"sft": SFT_RESPONSES, "reference": QUADRUPLE_RESPONSES, "wrpo": QUADRUPLE_RESPONSES}
_MAX_NAMED = 10
_ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class TokenCounts:
    """Rows kept, rows left out for their prompt's length or by the chat template, and responses cut at max_length."""

    num_rows: int
    num_rows_too_long_prompt: int
    num_rows_refused_by_template: int
    num_responses_cut: int


@dataclass
class TokenTally:
    """Counts what becomes of rows that come one after the other; first_refused: up to ten prompt_ids and why."""

    num_given: int = 0
    num_kept: int = 0
    num_refused: int = 0
    num_cut: int = 0
    first_refused: list[tuple[str, str]] = field(default_factory=list)

    def refuse(self, prompt_id: str, reason: str) -> None:
        """Note a row that the chat template refuses."""
        self.num_refused += 1
        if len(self.first_refused) < _MAX_NAMED:
            self.first_refused.append((prompt_id, reason))

    def counts(self) -> TokenCounts:
        """Return the counts so far."""
        num_too_long = self.num_given - self.num_kept - self.num_refused
        return TokenCounts(self.num_kept, num_too_long, self.num_refused, self.num_cut)

    def tell(self, train: TrainConfig) -> None:
        """Log the counts; raises DataError when no row is left."""
        for prompt_id, reason in self.first_refused:
            log.warning("prompt %s is left out: %s", prompt_id, reason)
        if (num_more := self.num_refused - len(self.first_refused)) > 0:
            log.warning("%d more prompts are left out for what the chat template says of them", num_more)
        log.info(
            "%d rows; %d left out (prompt over %d tokens); %d responses cut at %d tokens with their prompt",
            self.num_kept, self.counts().num_rows_too_long_prompt, train.max_prompt_length, self.num_cut,
            train.max_length,
        )  # fmt: skip
        if not self.num_kept:
            raise DataError(f"none of {self.num_given} rows has a prompt of at most {train.max_prompt_length} tokens")


def tokenise(
    rows: Sequence[SFTExample] | Sequence[Quadruple], responses: Sequence[str], chat: ChatTokenizer, train: TrainConfig
) -> tuple[list[TokenRow], TokenCounts]:
    """Return each row as prompt_id, `prompt` ids and one list of ids per response, with counts of what did not fit.

    Raises DataError when no row is left. Training does the same piece by piece: see preparation.prepare_tokens.
    """
    tally = TokenTally()
    kept = fitting(rows, responses, chat, train, tally)
    tally.tell(train)
    return kept, tally.counts()


def fitting(
    rows: Sequence[SFTExample] | Sequence[Quadruple], responses: Sequence[str], chat: ChatTokenizer, train: TrainConfig,
    tally: TokenTally,
) -> list[TokenRow]:  # fmt: skip
    """Return the rows that fit as token ids, and count in `tally` what became of all."""
    kept: list[TokenRow] = []
    tally.num_given += len(rows)
    for row in rows:
        try:
            prompt, encoded = _encode(row, responses, chat)
        except DataError as error:
            tally.refuse(row.prompt_id, str(error))
            continue
        if len(prompt) > train.max_prompt_length:
            continue
        cut = {name: cut_response(len(prompt), ids, train.max_length) for name, ids in encoded.items()}
        tally.num_cut += sum(len(cut[name]) < len(encoded[name]) for name in responses)
        kept.append({"prompt_id": row.prompt_id, "prompt": prompt, **cut})
    tally.num_kept += len(kept)
    return kept


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


def name_some(prompt_ids: Sequence[str], num_all: int | None = None) -> str:
    """Return up to ten prompt_ids as text; `num_all` says how many there are when those are only the first."""
    num_more = (len(prompt_ids) if num_all is None else num_all) - _MAX_NAMED
    more = f" and {num_more} more" if num_more > 0 else ""
    return ", ".join(prompt_ids[:_MAX_NAMED]) + more


@dataclass
class Named:
    """Counts prompt_ids and keeps the first ten, to be named in an error."""

    num_all: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, prompt_ids: Sequence[str]) -> None:
        """Count more of them."""
        self.num_all += len(prompt_ids)
        self.first += prompt_ids[: _MAX_NAMED - len(self.first)]

    def __str__(self) -> str:
        return name_some(self.first, self.num_all)


def write_tokens(folder: Location, rows: Sequence[TokenRow], responses: Sequence[str]) -> FileEntry:
    """Write tokenised rows, with log-probs of the reference where they have them, for `TokenTable` to read."""
    with_logps = {name for name in responses if f"{name}_logps" in rows[0]}
    with token_writer(folder, responses, with_logps) as writer:
        writer.write(rows)
        return writer.store()


class TokenTable:
    """Tokenised rows by index; they stay in Arrow's memory until a batch asks for them.

    Raises StorageError when the file is not the one that was written.
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

    def ids_digest(self) -> str:
        """Return one hash over all prompt_ids in their order, as TokenWriter.digest has it."""
        digest = IdDigest()
        for batch in self.table.select(["prompt_id"]).to_batches(max_chunksize=_ROWS_AT_ONCE):
            digest.update(batch.column(0).to_pylist())
        return digest.hexdigest()

    def rows(self, indices: Sequence[int]) -> list[TokenRow]:
        """Return the rows at `indices`, in that order."""
        return self.table.take(list(indices)).to_pylist()

    def count(self, indices: Sequence[int]) -> int:
        """Return the response tokens of the rows at `indices`, all responses together."""
        return sum(lengths[index] for lengths in self.num_tokens.values() for index in indices)
