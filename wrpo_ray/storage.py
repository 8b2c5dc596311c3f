"""Files of a run: written whole or not at all, listed in a manifest, read by manifest only.

<root>/<run>/config.json                     the resolved config
<root>/<run>/<step>/<fingerprint>/...        everything that one step wrote
<root>/<run>/<step>/<fingerprint>/manifest.json   written last: it exists exactly when the step is complete
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from wrpo_ray.errors import DataError
from wrpo_ray.schema import Row, to_rows, to_table

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class RunLayout:
    """The one place that knows where things of a run lie."""

    folder: Path

    @property
    def config_path(self) -> Path:
        return self.folder / "config.json"

    def step_folder(self, step: str, fingerprint: str) -> Path:
        return self.folder / step / fingerprint


@dataclass(frozen=True)
class FileEntry:
    """One file of a step: path below the step's folder, size in bytes, SHA-256, and rows when it is Parquet."""

    path: str
    num_bytes: int
    sha256: str
    num_rows: int | None


@dataclass(frozen=True)
class Manifest:
    """What a finished step made, from what, and the counts that it reports."""

    step: str
    fingerprint: str
    identity: Mapping[str, Any]
    inputs: Mapping[str, str]
    files: tuple[FileEntry, ...]
    summary: Mapping[str, Any]
    versions: Mapping[str, str]
    seconds: float


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` so that the file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    with temporary.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8"))


def write_table(path: Path, table: pa.Table) -> FileEntry:
    """Write `table` as Parquet with page checksums, whole or not at all, and return its entry."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    content = sink.getvalue().to_pybytes()
    write_bytes(path, content)
    return FileEntry(path.name, len(content), hashlib.sha256(content).hexdigest(), table.num_rows)


def write_rows(path: Path, rows: Iterable[Row], row_type: type[Row]) -> FileEntry:
    """Write `rows` as one Parquet file with the schema of their type."""
    return write_table(path, to_table(rows, row_type))


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def describe_files(folder: Path, paths: Iterable[Path]) -> tuple[FileEntry, ...]:
    """Return the entries of `paths`, which lie below `folder`, in order of their names."""
    return tuple(_describe(folder, path) for path in sorted(paths))


def _describe(folder: Path, path: Path) -> FileEntry:
    num_rows = pq.read_metadata(path).num_rows if path.suffix == ".parquet" else None
    return FileEntry(path.relative_to(folder).as_posix(), path.stat().st_size, file_sha256(path), num_rows)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Mark the step in `folder` as complete."""
    write_json(folder / MANIFEST, dataclasses.asdict(manifest))


def read_manifest(folder: Path) -> Manifest | None:
    """Return the manifest of a step's folder, or None when the step is not complete."""
    try:
        raw = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return Manifest(**{**raw, "files": tuple(FileEntry(**entry) for entry in raw["files"])})


def read_rows(folder: Path, row_type: type[Row]) -> list[Row]:
    """Return all rows of a finished step, file by file as its manifest lists them.

    Raises DataError when the step is not complete or a file is not the one that the manifest names.
    """
    return to_rows(read_table(folder, row_type.SCHEMA), row_type)


def read_table(folder: Path, schema: pa.Schema) -> pa.Table:
    """Return the Parquet rows of a finished step as one table with `schema`; errors as in read_rows."""
    tables = [_read_verified(folder, entry, schema) for entry in parquet_entries(folder)]
    return pa.concat_tables(tables) if tables else schema.empty_table()


def iter_rows(folder: Path, row_type: type[Row]) -> Iterator[list[Row]]:
    """Yield the rows of a finished step one file at a time; errors as in read_rows."""
    for entry in parquet_entries(folder):
        yield to_rows(_read_verified(folder, entry, row_type.SCHEMA), row_type)


def read_file(folder: Path, entry: FileEntry, row_type: type[Row]) -> list[Row]:
    """Return the rows of one file that a manifest lists; errors as in read_rows."""
    return to_rows(_read_verified(folder, entry, row_type.SCHEMA), row_type)


def parquet_entries(folder: Path) -> list[FileEntry]:
    """Return the Parquet files below `data/` that a finished step's manifest lists."""
    manifest = read_manifest(folder)
    if manifest is None:
        raise DataError(f"{folder} has no {MANIFEST}: the step that writes it is not complete; run it first")
    return [entry for entry in manifest.files if entry.num_rows is not None and entry.path.startswith("data/")]


def _read_verified(folder: Path, entry: FileEntry, schema: pa.Schema) -> pa.Table:
    content = (folder / entry.path).read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != entry.sha256:
        raise DataError(
            f"{folder / entry.path} was changed after it was written: sha256 {found}, manifest {entry.sha256}"
        )
    table = pq.read_table(pa.BufferReader(content), page_checksum_verification=True)
    if table.num_rows != entry.num_rows:
        raise DataError(f"{folder / entry.path} holds {table.num_rows} rows, its manifest says {entry.num_rows}")
    return table.select(schema.names).cast(schema)
