"""One file against what was noted when it was written: size, SHA-256, Parquet page checksums, rows."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from wrpo_ray.errors import StorageError
from wrpo_ray.parquet_guard import require_plain
from wrpo_ray.storage.location import Location
from wrpo_ray.storage.manifest import FileEntry

# What names a prompt, and what names a response to it.
_RESPONSE = ("prompt_id", "source", "sample_index")


@dataclass(frozen=True)
class Measured:
    """A file as it is now. num_rows: None when it is not Parquet or cannot be read, and `problem` then says why.

    items: what its rows are results of, once by prompt and once by response, where there are such columns.
    """

    num_bytes: int
    sha256: str
    num_rows: int | None = None
    problem: str | None = None
    items: tuple[frozenset[str], ...] = ()

    def is_entry(self, entry: FileEntry) -> bool:
        """Tell whether these are the bytes that `entry` names."""
        return (self.num_bytes, self.sha256) == (entry.num_bytes, entry.sha256)


def changed_bytes(found: Measured, entry: FileEntry) -> str:
    """Return in words that a file is not the one that was written."""
    if found.num_bytes == entry.num_bytes:
        return "changed after it was written: its size is the same, its SHA-256 is not"
    return f"changed after it was written: {found.num_bytes:,} bytes instead of {entry.num_bytes:,}"


def measure(place: Location, parquet: bool) -> Measured | None:
    """Return what lies at `place`, read whole, or None when nothing does; memory stays small for large model files.

    parquet: look into the file too. Raises StorageError when the store cannot be read.
    """
    try:
        with _on_disk(place) as path:
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            measured = Measured(path.stat().st_size, digest)
            return _with_rows(measured, path) if parquet else measured
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StorageError(
            f"cannot read {place}: {error.strerror or error}", code="WRPO-S001",
            help="this says nothing about the file: repair the disk or the permissions and look again",
        ) from error  # fmt: skip


@contextmanager
def _on_disk(place: Location) -> Iterator[Path]:
    if place.local_path is not None:
        yield place.local_path
        return
    with tempfile.TemporaryDirectory(prefix="wrpo-inspect-") as folder:
        copy = Path(folder) / "file"
        place.download(copy)
        yield copy


def _with_rows(measured: Measured, path: Path) -> Measured:
    try:
        with path.open("rb") as stream:
            require_plain(stream)
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            table = file.read()
    except (pa.ArrowInvalid, pa.ArrowException, OSError) as error:
        return Measured(measured.num_bytes, measured.sha256, problem=f"no Parquet that can be read: {error}")
    return Measured(measured.num_bytes, measured.sha256, table.num_rows, items=_items(table))


def _items(table: pa.Table) -> tuple[frozenset[str], ...]:
    columns = [name for name in _RESPONSE if name in table.column_names]
    if _RESPONSE[0] not in columns:
        return ()
    values = [table[name].to_pylist() for name in columns]
    prompts = frozenset(values[0])
    if len(columns) < len(_RESPONSE):
        return (prompts,)
    return prompts, frozenset(":".join(map(str, key)) for key in zip(*values, strict=True))
