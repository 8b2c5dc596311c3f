"""Tokenised rows as one Parquet file that grows while the rows come; what is held does not grow with them."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from wrpo_ray.storage.location import Location
from wrpo_ray.storage.manifest import FileEntry
from wrpo_ray.storage.stores import local_errors

TOKENS_FILE = "tokens.parquet"
# Of all groups but the last, so that equal rows give equal bytes however they came.
ROWS_PER_GROUP = 4096

TokenRow = dict[str, Any]


class IdDigest:
    """One hash over prompt_ids in their order: that of ledger.items_digest when they are sorted."""

    def __init__(self) -> None:
        self._hash, self._is_empty = hashlib.sha256(), True

    def update(self, prompt_ids: Iterable[str]) -> None:
        """Take the next prompt_ids."""
        for prompt_id in prompt_ids:
            self._hash.update((prompt_id if self._is_empty else f"\n{prompt_id}").encode("utf-8"))
            self._is_empty = False

    def hexdigest(self) -> str:
        """Return the hash over all that were taken so far."""
        return self._hash.hexdigest()


def token_schema(responses: Sequence[str], with_logps: Collection[str]) -> pa.Schema:
    """Return the columns of rows with these responses; those in `with_logps` bring log-probs, which may be null."""
    fields = [pa.field("prompt_id", pa.string())]
    fields += [pa.field(name, pa.list_(pa.int32())) for name in ("prompt", *responses)]
    fields += [pa.field(f"{name}_logps", pa.float64()) for name in responses if name in with_logps]
    return pa.schema(fields)


class TokenWriter:
    """Writes tokens.parquet below `folder` by way of `place`, a file on this machine; see token_writer."""

    def __init__(self, folder: Location, place: Path, schema: pa.Schema) -> None:
        self.num_rows = 0
        self.digest = IdDigest()
        self._folder, self._place, self._schema = folder, place, schema
        self._waiting: list[pa.Table] = []
        with local_errors("write", place):
            self._file = pq.ParquetWriter(place, schema, compression="zstd", write_page_checksum=True)

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows."""
        if not rows:
            return
        self.num_rows += len(rows)
        self.digest.update(row["prompt_id"] for row in rows)
        self._waiting.append(pa.Table.from_pylist(list(rows), schema=self._schema))
        if sum(table.num_rows for table in self._waiting) >= ROWS_PER_GROUP:
            self._write_groups(ROWS_PER_GROUP)

    def _write_groups(self, fewest: int) -> None:
        """Write what waits in groups of ROWS_PER_GROUP, the last of at least `fewest` rows; the rest waits on."""
        table = pa.concat_tables(self._waiting).combine_chunks() if self._waiting else self._schema.empty_table()
        start = 0
        while table.num_rows - start >= fewest and start < table.num_rows:
            with local_errors("write", self._place):
                self._file.write_table(table.slice(start, ROWS_PER_GROUP), row_group_size=ROWS_PER_GROUP)
            start += ROWS_PER_GROUP
        self._waiting = [table.slice(start)] if start < table.num_rows else []

    def store(self) -> FileEntry:
        """Store the file, whole or not at all, and return its entry; nothing can be appended any more."""
        self._write_groups(1)
        self.close()
        stored = (self._folder / TOKENS_FILE).upload(self._place)
        return FileEntry(TOKENS_FILE, stored.num_bytes, stored.sha256, self.num_rows)

    def close(self) -> None:
        """Close the file."""
        with local_errors("write", self._place):
            self._file.close()


@contextmanager
def token_writer(folder: Location, responses: Sequence[str], with_logps: Collection[str]) -> Iterator[TokenWriter]:
    """Give a writer of rows as `token_schema` describes them; what it did not store is gone afterwards.

    Equal rows give equal bytes: the entry's hash names what a training run goes through.
    """
    local = folder.local_path
    if local is not None:
        # Beside its destination an upload is a link and no copy.
        local.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="tokens-", dir=local) as place:
        writer = TokenWriter(folder, Path(place) / TOKENS_FILE, token_schema(responses, with_logps))
        with contextlib.closing(writer):
            yield writer
