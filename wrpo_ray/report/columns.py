"""Columns of a step's Parquet files in pieces: never all rows, and no column that nobody asked for."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, cast

import pyarrow as pa
import pyarrow.parquet as pq

from wrpo_ray.errors import StorageError
from wrpo_ray.parquet_guard import require_plain
from wrpo_ray.report.folder import StepFacts
from wrpo_ray.storage.location import Location

if TYPE_CHECKING:
    from wrpo_ray.storage.objects import ObjectStore

ROWS_PER_PIECE = 16_384


def pieces(step: StepFacts, columns: Iterable[str], rows_per_piece: int = ROWS_PER_PIECE) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a step's files that count so far, these columns alone, in pieces.

    Of a file in an object store only these columns are fetched; a local one is read where it lies.
    Raises StorageError when a file is missing, cannot be read or lacks a column.
    """
    names = list(columns)
    for entry in step.data:
        place = step.folder / entry.path
        try:
            stream = opened(place)
            require_plain(stream)
            file = pq.ParquetFile(stream, pre_buffer=place.local_path is None)
            if missing := [name for name in names if name not in file.schema_arrow.names]:
                raise StorageError(f"{place} lacks the columns {', '.join(missing)}", code="WRPO-S015", help=_REPAIR)
            yield from file.iter_batches(rows_per_piece, columns=names)
        except FileNotFoundError as error:
            raise StorageError(f"{place} is missing, its record lists it", code="WRPO-S016", help=_REPAIR) from error
        except (pa.ArrowInvalid, OSError) as error:
            raise StorageError(f"{place} is no Parquet file: {error}", code="WRPO-S013", help=_REPAIR) from error


_REPAIR = "wrpo-ray inspect RUN --repair removes what does not verify, so that the next run makes it again"


class RangeReader(io.RawIOBase):
    """An object as a file that can be read in parts, each of them fetched when it is asked for."""

    def __init__(self, num_bytes: int, fetch: Callable[[int, int], bytes]) -> None:
        super().__init__()
        self.num_bytes, self.fetch, self.position = num_bytes, fetch, 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Return where the next part begins."""
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place from the beginning, from here or from the end."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.num_bytes}[whence]
        self.position = start + offset
        return self.position

    def read(self, size: int = -1) -> bytes:
        """Fetch the next `size` bytes, or all that are left."""
        left = max(0, self.num_bytes - self.position)
        part = self.fetch(self.position, left if size < 0 else min(size, left))
        self.position += len(part)
        return part


def opened(place: Location) -> pa.NativeFile:
    """Return a file to be read in parts; raises FileNotFoundError when there is none."""
    path = place.local_path
    if path is not None:
        return pa.OSFile(str(path), "rb")
    stat = place.stat()
    if stat is None:
        raise FileNotFoundError(str(place))
    # Every place that is no path is in an object store, which can give a part of an object.
    fetch = functools.partial(cast("ObjectStore", place.store).read_range, place.key)
    return pa.PythonFile(RangeReader(stat.num_bytes, fetch), "r")
