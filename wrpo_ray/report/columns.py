"""Columns of a step's Parquet files in pieces: never all rows, and no column that nobody asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from wrpo_ray.errors import StorageError
from wrpo_ray.report.folder import StepFacts
from wrpo_ray.storage.location import Location

ROWS_PER_PIECE = 16_384


def pieces(step: StepFacts, columns: Iterable[str], rows_per_piece: int = ROWS_PER_PIECE) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a step's files that count so far, these columns alone, in pieces.

    A file of an object store is held as bytes while it is read, one at a time; a local one is read where it lies.
    Raises StorageError when a file is missing or cannot be read.
    """
    names = list(columns)
    for entry in step.data:
        place = step.folder / entry.path
        try:
            file = pq.ParquetFile(_opened(place))
            yield from file.iter_batches(rows_per_piece, columns=names)
        except FileNotFoundError as error:
            raise StorageError(f"{place} is missing, its record lists it", code="WRPO-S016", help=_REPAIR) from error
        except (pa.ArrowInvalid, OSError) as error:
            raise StorageError(f"{place} is no Parquet file: {error}", code="WRPO-S013", help=_REPAIR) from error


_REPAIR = "wrpo-ray inspect RUN --repair removes what does not verify, so that the next run makes it again"


def _opened(place: Location) -> pa.NativeFile:
    path = place.local_path
    return pa.OSFile(str(path), "rb") if path is not None else pa.BufferReader(place.read_bytes())
