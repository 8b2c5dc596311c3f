"""What a Parquet file says of itself is looked at before pyarrow decodes any of it.

Arrow extension types may unpickle their metadata as soon as a schema is built (CVE-2026-41486), so the raw footer is
searched for them. A few kilobytes can stand for terabytes, so declared sizes are compared with what lies in the file.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

EXTENSION_KEY = b"ARROW:extension:name"
MAX_FOOTER_BYTES = 2**26
# Up to here no ratio is looked at; text of that kind compresses well.
_FREE_BYTES = 2**28
_MAX_COLUMN_BYTES = 2**34
# zstd takes ordinary text down to a third or a fifth, and logs full of repetition to a fiftieth.
_MAX_RATIO = 200
# Prompts are told apart by what they hold: a row that takes less than a bit repeats another one.
_MAX_ROWS_PER_BYTE, _FREE_ROWS = 8, 2**16


def footer_of(stream: BinaryIO | pa.NativeFile) -> bytes:
    """Return the metadata of a Parquet file: its length and four magic bytes stand at the very end.

    Raises ValueError when they do not, or when the metadata would be larger than the file or than 64 MiB.
    """
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - 8))
    end = stream.read()
    if size < 12 or end[-4:] != b"PAR1":
        raise ValueError("no Parquet file, or its end is missing")
    declared = int.from_bytes(end[:4], "little")
    if declared > min(size - 12, MAX_FOOTER_BYTES):
        raise ValueError(f"the metadata is declared as {declared} bytes, in a file of {size}")
    stream.seek(size - 8 - declared)
    return stream.read()


def require_plain(stream: BinaryIO | pa.NativeFile) -> None:
    """Raise ArrowInvalid for what is no Parquet file, or holds an Arrow extension type; then go back to the start."""
    try:
        footer = footer_of(stream)
    except ValueError as error:
        raise pa.ArrowInvalid(str(error)) from error
    if has_extension_type(footer):
        raise pa.ArrowInvalid("a column has an Arrow extension type, which may run code when it is read")
    stream.seek(0)


def has_extension_type(footer: bytes) -> bool:
    """Tell whether the metadata names an Arrow extension type, in its schema as it is or in base64."""
    return any(key in footer for key in (EXTENSION_KEY, *_encoded_anywhere(EXTENSION_KEY)))


def _encoded_anywhere(text: bytes) -> list[bytes]:
    """Return what `text` looks like inside longer base64 text, for each of the three ways in which it may lie there."""
    pieces = []
    for shift in range(3):
        whole = (len(text) + shift) // 3 * 3 - shift
        start = (3 - shift) % 3
        pieces.append(base64.b64encode(text[start:whole]))
    return pieces


def oversized(metadata: pq.FileMetaData, columns: Sequence[str], num_bytes: int) -> str | None:
    """Return what of the declared sizes cannot be meant, or None.

    columns: that are going to be read, others are never decoded. num_bytes: of the file.
    """
    if metadata.num_rows > _FREE_ROWS + _MAX_ROWS_PER_BYTE * num_bytes:
        return f"{metadata.num_rows} rows in a file of {num_bytes} bytes"
    for chunk in _chunks(metadata, columns):
        declared, stored = chunk.total_uncompressed_size, chunk.total_compressed_size
        if not 0 <= stored <= num_bytes or not 0 <= declared <= _MAX_COLUMN_BYTES:
            return f"{declared} bytes of column {chunk.path_in_schema}, stored as {stored}, in a file of {num_bytes}"
        if declared > _FREE_BYTES and declared > _MAX_RATIO * stored:
            return f"{declared} bytes of column {chunk.path_in_schema} out of {stored}"
    return None


def text_leaves(metadata: pq.FileMetaData, columns: Sequence[str]) -> list[str]:
    """Return the paths of the text within `columns`.

    Read as dictionaries, a value that stands in a thousand rows is in memory once.
    """
    schema = metadata.schema
    leaves = [schema.column(index) for index in range(metadata.num_columns)]
    return [leaf.path for leaf in leaves if _below(leaf.path, columns) and leaf.logical_type.type == "STRING"]


def _chunks(metadata: pq.FileMetaData, columns: Sequence[str]) -> Iterator[pq.ColumnChunkMetaData]:
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        for index in range(row_group.num_columns):
            if _below((chunk := row_group.column(index)).path_in_schema, columns):
                yield chunk


def _below(path: str, columns: Sequence[str]) -> bool:
    return any(path == column or path.startswith(f"{column}.") for column in columns)
