"""Prompts in order of prompt_id, however many: a temporary file holds them, memory one bucket of them at a time.

A prompt_id is a uniform hash, so its first byte makes 256 buckets of about the same size. The temporary file has no
name from the moment that it exists (small ones never leave memory), so a process that dies leaves nothing behind.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import tempfile
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from wrpo_ray.errors import StorageError
from wrpo_ray.schema import Prompt, Split, to_rows

NUM_BUCKETS = 256
_BATCH_ROWS, _BATCH_CHARACTERS = 16_384, 16 * 2**20
_BYTES_IN_MEMORY = 16 * 2**20
# A larger bucket is sorted in 16 parts, by the next digit: sorting takes several times the room of what is sorted.
_BYTES_SORTED_AT_ONCE = 4 * 2**20
# Where a row stood: place in the order of reading, number of its file, and its number there.
_ORIGIN = [pa.field(name, pa.int64(), nullable=False) for name in ("order", "file", "row")]
_WITH_ORIGIN = pa.schema([*Prompt.SCHEMA, *_ORIGIN])


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a prompt was read: `order` counts all rows, `file` is a number, `row` counts within the file."""

    order: int
    file: int
    row: int


@dataclass(frozen=True)
class Conflict:
    """A row that repeats the prompt of the row `first` with another answer than that one's."""

    origin: Origin
    first: Origin
    answer: str | None


class SortedPrompts:
    """Distinct prompts in order of prompt_id, read again from the temporary file whenever they are asked for.

    num_by_split: how many each split has. content: one hash over prompt_ids, splits and answers.
    """

    def __init__(
        self, spill: _Spill, places: Mapping[int, list[tuple[int, int]]], counts: Counter[str], content: str
    ) -> None:
        self._spill, self._places = spill, places
        self.num_by_split: Mapping[str, int] = counts
        self.content = content

    def __len__(self) -> int:
        return sum(self.num_by_split.values())

    def __iter__(self) -> Iterator[Prompt]:
        for table in self.tables():
            yield from to_rows(table, Prompt)

    def __eq__(self, other: object) -> bool:
        # A prompt_id is a hash of the messages, so this compares all that a prompt has.
        return isinstance(other, SortedPrompts) and self.content == other.content

    def __hash__(self) -> int:
        return hash(self.content)

    def tables(self) -> Iterator[pa.Table]:
        """Yield all prompts with Prompt.SCHEMA, in order of prompt_id."""
        for bucket in sorted(self._places):
            for place in self._places[bucket]:
                yield self._spill.read(*place)

    def ids_by_bucket(self) -> Iterator[list[str]]:
        """Yield the prompt_ids of 256 buckets; a prompt is in the same one of every set that has it."""
        for bucket in range(NUM_BUCKETS):
            tables = (self._spill.read(*place) for place in self._places.get(bucket, ()))
            yield [prompt_id for table in tables for prompt_id in table["prompt_id"].to_pylist()]

    def ids(self) -> Iterator[str]:
        """Yield all prompt_ids in order."""
        for table in self.tables():
            yield from table["prompt_id"].to_pylist()

    def of_split(self, split: Split) -> Iterator[Prompt]:
        """Yield the prompts of one split, in order of prompt_id."""
        for table in self.tables():
            yield from to_rows(table.filter(pc.field("split") == split), Prompt)


class PromptSorter:
    """Takes prompts in any order, and gives the distinct ones back in order once all are there."""

    def __init__(self) -> None:
        self._spill = _Spill()
        # Of each batch: where its piece for each bucket begins, and where the last one ends.
        self._places: list[np.ndarray] = []
        self._clear()

    def _clear(self) -> None:
        self._prompts: list[Prompt] = []
        self._origins: list[Origin] = []
        self._num_characters = 0

    def add(self, prompt: Prompt, origin: Origin) -> None:
        """Take one prompt; raises StorageError when the temporary folder has no room for it."""
        self._prompts.append(prompt)
        self._origins.append(origin)
        self._num_characters += sum(len(message["content"]) for message in prompt.messages)
        if len(self._prompts) >= _BATCH_ROWS or self._num_characters >= _BATCH_CHARACTERS:
            self._flush()

    def _flush(self) -> None:
        """Write what has come as one piece for each bucket that it touches."""
        buckets = np.array([int(prompt.prompt_id[:2], 16) for prompt in self._prompts], dtype=np.int16)
        order = np.argsort(buckets, kind="stable")
        ends = np.searchsorted(buckets[order], np.arange(NUM_BUCKETS), side="right")
        table = _table(self._prompts, self._origins).take(pa.array(order))
        self._clear()
        places = [self._spill.size]
        for start, end in itertools.pairwise([0, *ends.tolist()]):
            if end > start:
                self._spill.append(table.slice(start, end - start))
            places.append(self._spill.size)
        self._places.append(np.array(places))

    def finish(self, on_conflict: Callable[[Conflict], None]) -> SortedPrompts:
        """Return the distinct prompts, of equal ones the first; `on_conflict` is told of those with another answer."""
        if self._prompts:
            self._flush()
        spill, content, counts = _Spill(), _Digest(), Counter[str]()
        places: dict[int, list[tuple[int, int]]] = {}
        for bucket in range(NUM_BUCKETS):
            for rows in _parts(self._pieces(bucket)):
                table = _distinct(rows, on_conflict)
                places.setdefault(bucket, []).append(spill.append(table))
                counts.update(table["split"].to_pylist())
                content.add(table)
        self._spill.close()
        return SortedPrompts(spill, places, counts, content.hexdigest())

    def _pieces(self, bucket: int) -> list[pa.Table]:
        places = (batch[bucket : bucket + 2].tolist() for batch in self._places)
        return [self._spill.read(start, end - start) for start, end in places if end > start]


def _parts(pieces: list[pa.Table]) -> Iterator[pa.Table]:
    """Yield the rows of a bucket in parts that are sorted for themselves, one after the other."""
    if sum(piece.nbytes for piece in pieces) <= _BYTES_SORTED_AT_ONCE:
        yield from ([pa.concat_tables(pieces)] if pieces else [])
        return
    rows = pa.concat_tables(pieces).combine_chunks()
    pieces.clear()
    digits = np.array([int(prompt_id[2], 16) for prompt_id in rows["prompt_id"].to_pylist()])
    for digit in np.unique(digits):
        yield rows.filter(pa.array(digits == digit))


def _table(prompts: list[Prompt], origins: list[Origin]) -> pa.Table:
    columns: dict[str, list[Any]] = {
        "prompt_id": [prompt.prompt_id for prompt in prompts],
        "messages": [prompt.messages for prompt in prompts],
        "split": [prompt.split for prompt in prompts],
        "answer": [prompt.answer for prompt in prompts],
        "order": [origin.order for origin in origins],
        "file": [origin.file for origin in origins],
        "row": [origin.row for origin in origins],
    }
    return pa.table(columns, schema=_WITH_ORIGIN)


def _distinct(rows: pa.Table, on_conflict: Callable[[Conflict], None]) -> pa.Table:
    """Return the first row of each prompt, in order of prompt_id."""
    rows = rows.sort_by([("prompt_id", "ascending"), ("order", "ascending")])
    ids = rows["prompt_id"].to_numpy()
    is_first = np.append(True, ids[1:] != ids[:-1])
    if not is_first.all():
        numbers = np.arange(len(ids))
        first = np.maximum.accumulate(np.where(is_first, numbers, 0))
        _compare(rows, numbers[~is_first], first[~is_first], on_conflict)
        rows = rows.filter(pa.array(is_first))
    return rows.select(Prompt.SCHEMA.names)


def _compare(rows: pa.Table, repeated: np.ndarray, first: np.ndarray, on_conflict: Callable[[Conflict], None]) -> None:
    """Tell of the rows `repeated` whose answer is not that of their row in `first`."""
    columns = ["answer", *(field.name for field in _ORIGIN)]
    pairs = zip(*(rows.select(columns).take(pa.array(each)).to_pylist() for each in (repeated, first)), strict=True)
    for later, earlier in pairs:
        if later["answer"] != earlier["answer"]:
            on_conflict(Conflict(_origin(later), _origin(earlier), later["answer"]))


def _origin(row: Mapping[str, Any]) -> Origin:
    return Origin(row["order"], row["file"], row["row"])


class _Digest:
    """SHA-256 of the JSON list of all [prompt_id, split, answer], as steps.digest makes it of a list in memory."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256(b"[")
        self._before = b""

    def add(self, table: pa.Table) -> None:
        columns = (table[name].to_pylist() for name in ("prompt_id", "split", "answer"))
        text = json.dumps(list(zip(*columns, strict=True)), ensure_ascii=True)[1:-1]
        self._hash.update(self._before + text.encode("ascii"))
        self._before = b", "

    def hexdigest(self) -> str:
        self._hash.update(b"]")
        return self._hash.hexdigest()


class _Spill:
    """Tables in one temporary file, each found again by its place and length."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(_BYTES_IN_MEMORY)  # noqa: SIM115 (open as long as this is)
        self._lock = threading.Lock()
        self.size = 0
        weakref.finalize(self, self._file.close)

    def append(self, table: pa.Table) -> tuple[int, int]:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
            writer.write_table(table)
        content = sink.getvalue()
        with self._lock:
            place = self.size
            try:
                self._file.seek(place)
                self._file.write(content)
                self._file.flush()
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                    raise
                raise _no_room(error) from error
            self.size += content.size
        return place, content.size

    def read(self, place: int, num_bytes: int) -> pa.Table:
        with self._lock:
            self._file.seek(place)
            content = self._file.read(num_bytes)
        return pa.ipc.open_stream(pa.py_buffer(content)).read_all()

    def close(self) -> None:
        self._file.close()


def _no_room(error: OSError) -> StorageError:
    return StorageError(
        f"{tempfile.gettempdir()} has no room to sort the prompts: {error.strerror}", code="WRPO-S035",
        help="set TMPDIR to a folder on a disk with as much room as the prompts take, twice",
    )  # fmt: skip
