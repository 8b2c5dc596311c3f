"""Rows as Parquet: written with page checksums, read by manifest only, and verified on the way."""

from __future__ import annotations

import contextlib
import hashlib
import io
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from wrpo_ray.errors import StorageError
from wrpo_ray.parquet_guard import require_plain
from wrpo_ray.schema import Row, to_rows, to_table
from wrpo_ray.storage.location import Location
from wrpo_ray.storage.manifest import FileEntry, require_manifest
from wrpo_ray.storage.stores import local_errors

_REPAIR = "wrpo-ray inspect RUN --repair removes what does not verify, so that the next run makes it again"
# What is larger goes to the store as a file.
_MAX_BYTES_IN_MEMORY = 2**24


def parquet_bytes(table: pa.Table) -> bytes:
    """Return `table` as a Parquet file with page checksums; equal tables give equal bytes."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue().to_pybytes()


def write_table(folder: Location, path: str, table: pa.Table) -> FileEntry:
    """Write `table` to `path` below `folder`, whole or not at all, and return its entry."""
    content = parquet_bytes(table)
    (folder / path).write_bytes(content)
    return FileEntry(path, len(content), hashlib.sha256(content).hexdigest(), table.num_rows, key_range(table))


def key_range(table: pa.Table) -> tuple[str, str] | None:
    """Return the smallest and the largest prompt_id of a table, or None when it has none."""
    if "prompt_id" not in table.column_names or not table.num_rows:
        return None
    found = pc.call_function("min_max", [table["prompt_id"]]).as_py()
    return None if found["min"] is None else (found["min"], found["max"])


def write_rows(folder: Location, path: str, rows: Iterable[Row], row_type: type[Row]) -> FileEntry:
    """Write `rows` as one Parquet file with the schema of their type; see write_table."""
    return write_table(folder, path, to_table(rows, row_type))


def write_file(folder: Location, path: str, content: bytes) -> FileEntry:
    """Write bytes to `path` below `folder`, whole or not at all, and return their entry."""
    (folder / path).write_bytes(content)
    return FileEntry(path, len(content), hashlib.sha256(content).hexdigest(), None)


def concatenated(folder: Location, path: str, pieces: Iterable[bytes]) -> FileEntry:
    """Write `pieces` as one file to `path` below `folder`, holding one of them at a time, and return its entry."""
    with piece_writer(folder, path) as writer:
        for piece in pieces:
            writer.write(piece)
        return writer.store()


class PieceWriter:
    """A file that is written piece by piece on this machine, and stored as a whole; see piece_writer."""

    def __init__(self, folder: Location, path: str, local: Path) -> None:
        self.folder, self.path, self.local = folder, path, local
        self._stream = local.open("wb")

    def write(self, piece: bytes) -> None:
        """Append a piece."""
        with local_errors("write", self.local, len(piece)):
            self._stream.write(piece)

    def store(self) -> FileEntry:
        """Store the file and return its entry; nothing can be appended any more."""
        self.close()
        if self.local.stat().st_size <= _MAX_BYTES_IN_MEMORY:
            return write_file(self.folder, self.path, self.local.read_bytes())
        stored = (self.folder / self.path).upload(self.local)
        return FileEntry(self.path, stored.num_bytes, stored.sha256, None)

    def close(self) -> None:
        """Write what is left of it."""
        with local_errors("write", self.local):
            self._stream.close()


@contextmanager
def piece_writer(folder: Location, path: str) -> Iterator[PieceWriter]:
    """Give a writer of one file to `path` below `folder`; what it did not store is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="wrpo-") as place:
        writer = PieceWriter(folder, path, Path(place) / "pieces")
        with contextlib.closing(writer):
            yield writer


def read_rows(folder: Location, row_type: type[Row]) -> list[Row]:
    """Return all rows of a finished step, file by file as its manifest lists them.

    Raises StorageError when the step is not complete or a file is not the one that the manifest names.
    """
    return to_rows(read_table(folder, row_type.SCHEMA), row_type)


def read_table(folder: Location, schema: pa.Schema) -> pa.Table:
    """Return the Parquet rows of a finished step as one table with `schema`; errors as in read_rows."""
    tables = [read_verified(folder, entry, schema) for entry in parquet_entries(folder)]
    return pa.concat_tables(tables) if tables else schema.empty_table()


def iter_rows(folder: Location, row_type: type[Row]) -> Iterator[list[Row]]:
    """Yield the rows of a finished step one file at a time; errors as in read_rows."""
    for entry in parquet_entries(folder):
        yield read_file(folder, entry, row_type)


def read_file(folder: Location, entry: FileEntry, row_type: type[Row]) -> list[Row]:
    """Return the rows of one file that a manifest lists; errors as in read_rows."""
    return to_rows(read_verified(folder, entry, row_type.SCHEMA), row_type)


def parquet_entries(folder: Location) -> list[FileEntry]:
    """Return the Parquet files below `data/` that a finished step's manifest lists."""
    files = require_manifest(folder).files
    return [entry for entry in files if entry.num_rows is not None and entry.path.startswith("data/")]


def read_verified(folder: Location, entry: FileEntry, schema: pa.Schema) -> pa.Table:
    """Return the rows of one file, after size, hash, page checksums, row count and columns have been compared.

    Raises StorageError that names the file and what differs.
    """
    place = folder / entry.path
    content = verified_bytes(folder, entry)
    try:
        require_plain(io.BytesIO(content))
        table = pq.read_table(pa.BufferReader(content), page_checksum_verification=True)
    except (pa.ArrowInvalid, OSError) as error:
        raise StorageError(f"{place} is no Parquet file: {error}", code="WRPO-S013", help=_REPAIR) from error
    if table.num_rows != entry.num_rows:
        raise StorageError(
            f"{place} holds {table.num_rows} rows, its manifest says {entry.num_rows}", code="WRPO-S014", help=_REPAIR
        )
    if missing := [name for name in schema.names if name not in table.column_names]:
        raise StorageError(f"{place} lacks the columns {', '.join(missing)}", code="WRPO-S015", help=_REPAIR)
    return table.select(schema.names).cast(schema)


def verified_bytes(folder: Location, entry: FileEntry) -> bytes:
    """Return the bytes of a file that a manifest lists; raises StorageError when they are missing or other ones."""
    place = folder / entry.path
    try:
        content = place.read_bytes()
    except FileNotFoundError as error:
        raise StorageError(f"{place} is missing, its manifest lists it", code="WRPO-S016", help=_REPAIR) from error
    found = hashlib.sha256(content).hexdigest()
    if found != entry.sha256:
        raise StorageError(
            f"{place} was changed after it was written: sha256 {found} ({len(content)} bytes), manifest"
            f" {entry.sha256} ({entry.num_bytes} bytes)", code="WRPO-S017", help=_REPAIR,
        )  # fmt: skip
    return content
