"""From rows of text to tokens.parquet: some rows at a time, so that neither text nor tokens are ever held whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from wrpo_ray.chat import ChatTokenizer
from wrpo_ray.config import ModelFiles, TrainConfig
from wrpo_ray.models import on_node, tokenizer_of
from wrpo_ray.schema import Quadruple, SFTExample, to_rows
from wrpo_ray.storage.location import Location
from wrpo_ray.storage.manifest import FileEntry
from wrpo_ray.storage.tables import parquet_entries, read_verified
from wrpo_ray.train.job import Kind
from wrpo_ray.train.reference_join import ReferenceJoin
from wrpo_ray.train.sampler_reference import (
    SAMPLED_RESPONSES,
    DrawnResponses,
    SamplerCounts,
    SamplerTally,
    log_counts,
    with_sampled_ids,
    with_sampled_logps,
)
from wrpo_ray.train.token_file import TokenRow, token_writer
from wrpo_ray.train.tokens import QUADRUPLE_RESPONSES, RESPONSES_OF, TokenTally, fitting

# A quadruple of 1,550 tokens is 61 KiB of Python objects.
_ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class Preparation:
    """What training rows are made from.

    rows: finished step of SFTExample (kind "sft") or Quadruple. drawn: finished sampling step of ResponseWithLogps, of
    which y_wt and y_l have their ids, and for kind "reference" their log-probs. reference: finished step of
    ReferenceLogps, whose log-probs are added. folder: where tokens.parquet is written.
    """

    kind: Kind
    train: TrainConfig
    model: ModelFiles
    rows: Location
    folder: Location
    drawn: Location | None = None
    reference: Location | None = None

    @property
    def with_logps(self) -> tuple[str, ...]:
        """The responses whose log-probs the rows bring."""
        if self.reference is not None:
            return QUADRUPLE_RESPONSES
        return SAMPLED_RESPONSES if self.kind == "reference" and self.drawn is not None else ()


@dataclass(frozen=True)
class Prepared:
    """What became of the rows; no part of it grows with them.

    entry: of tokens.parquet, None when no row is left. ids_digest: as TokenTable has it. sampler: with `drawn` alone.
    """

    entry: FileEntry | None
    ids_digest: str
    pad_token_id: int
    tally: TokenTally
    sampler: SamplerCounts | None

    def told(self, train: TrainConfig) -> FileEntry:
        """Log the counts and return the entry; raises DataError when no row is left."""
        self.tally.tell(train)
        if self.sampler is not None:
            log_counts(self.sampler)
        assert self.entry is not None, "rows that are left are written"
        return self.entry


def prepare_tokens(given: Preparation) -> Prepared:
    """Write tokens.parquet, the same bytes however the rows are cut into files.

    Raises DataError, naming up to ten prompt_ids, when rows have no reference log-probs or other token counts there.
    """
    pieces = _Pieces(given)
    with token_writer(given.folder, RESPONSES_OF[given.kind], given.with_logps) as writer:
        for rows in row_batches(given):
            writer.write(pieces.tokenised(rows))
        if not pieces.tally.num_kept:
            return pieces.result(None, "")
        pieces.require_whole()
        return pieces.result(writer.store(), writer.digest.hexdigest())


def row_batches(given: Preparation) -> Iterator[list[Any]]:
    """Yield the rows, a few at a time, in the order of the manifest's files."""
    row_type: type[Any] = SFTExample if given.kind == "sft" else Quadruple
    for entry in parquet_entries(given.rows):
        table = read_verified(given.rows, entry, row_type.SCHEMA)
        for start in range(0, table.num_rows, _ROWS_AT_ONCE):
            yield to_rows(table.slice(start, _ROWS_AT_ONCE), row_type)


class _Pieces:
    """Tokenises and joins some rows after the others, and counts what becomes of them."""

    def __init__(self, given: Preparation) -> None:
        self.tally, self._sampler = TokenTally(), SamplerTally()
        self._given = given
        self._chat = ChatTokenizer(tokenizer_of(on_node(given.model)))
        max_length = given.train.max_length
        self._drawn = None if given.drawn is None else DrawnResponses(given.drawn, self._chat, max_length)
        self._reference = None if given.reference is None else ReferenceJoin(given.reference)

    def tokenised(self, found: list[Any]) -> list[TokenRow]:
        """Return the rows that are left, as training takes them."""
        rows = fitting(found, RESPONSES_OF[self._given.kind], self._chat, self._given.train, self.tally)
        if self._drawn is not None:
            sampled = self._drawn.usable(found, rows, self._sampler)
            rows = with_sampled_ids(rows, sampled)
            rows = with_sampled_logps(rows, sampled) if self._given.kind == "reference" else rows
        return rows if self._reference is None else self._reference.joined(rows)

    def require_whole(self) -> None:
        """Raise DataError when rows could not be joined with the reference."""
        if self._reference is not None:
            self._reference.require_whole()

    def result(self, entry: FileEntry | None, ids_digest: str) -> Prepared:
        """Return what became of all rows."""
        sampler = None if self._drawn is None else self._sampler.counts()
        return Prepared(entry, ids_digest, self._chat.pad_token_id, self.tally, sampler)
