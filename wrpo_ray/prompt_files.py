"""Rows of prompt files, read without running anything that the files bring along.

Parquet, JSON lines and Hugging Face dataset folders. What a file declares is looked at before it is decoded: see
parquet_guard.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from wrpo_ray.errors import Problem
from wrpo_ray.parquet_guard import EXTENSION_KEY, footer_of, has_extension_type, oversized, text_leaves

# MemoryError: a damaged file may ask for more than there is.
_READ_ERRORS = (OSError, pa.ArrowException, ValueError, KeyError, TypeError, MemoryError, RecursionError)
# What is in memory of a file at a time; a row longer than this is read all the same.
_BATCH_ROWS, _READ_BYTES = 1024, 2**20
_MAX_LINE_BYTES = 2**26


class InvalidText:
    """Stands for a value whose bytes are not valid UTF-8."""

    def __repr__(self) -> str:
        return "bytes that are not UTF-8"


@dataclass(frozen=True)
class FileRow:
    """One row: `number` counts from 1 (the line of a JSON lines file), `values` holds the columns that it has."""

    file: Path
    number: int
    values: dict[str, Any]

    @property
    def place(self) -> str:
        return row_place(self.file, self.number)


def row_place(file: Path, number: int) -> str:
    """Return how messages name a row."""
    return f"{file}, row {number}"


def read_rows(path: str, columns: Sequence[str]) -> Iterator[FileRow | Problem]:
    """Yield the rows of a file or folder with `columns` alone, and a Problem for everything that cannot be read."""
    files = _not_here(path) or _find_files(Path(path).expanduser())
    if isinstance(files, Problem):
        yield files
        return
    for file in files:
        yield from _read_file(file, columns)


def shown(value: Any, limit: int = 80) -> str:
    """Return `value` as ASCII, cut to `limit` characters, fit for a message."""
    text = json.dumps(value, ensure_ascii=True, default=repr)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def described(value: Any) -> str:
    """Return what kind of value this is and how long, never the value: it may be a prompt."""
    if isinstance(value, InvalidText):
        return repr(value)
    if isinstance(value, str):
        return f"text of {len(value)} characters"
    if isinstance(value, bytes | list | dict):
        unit = {bytes: "bytes", list: "items", dict: "keys"}[type(value)]
        return f"{type(value).__name__} of {len(value)} {unit}"
    return "null" if value is None else type(value).__name__


def column_hint(column: str, known: Sequence[str]) -> str:
    """Return the fix for a column that is not there."""
    close = difflib.get_close_matches(column, known, n=1, cutoff=0.5)
    return f"did you mean `{close[0]}`?" if close else f"columns here: {', '.join(known) or 'none'}"


def _not_here(path: str) -> Problem | None:
    if "://" not in path:
        return None
    rule = "prompts are read from a file system, not from an object store or the web"
    return Problem(path, path.partition("://")[0], rule, "copy them to a path that the driver sees", "WRPO-D002")


def _find_files(path: Path) -> list[Path] | Problem:
    if path.is_file():
        if path.suffix in (".parquet", ".jsonl"):
            return [path]
        rule = "a prompt file ends in .parquet or .jsonl"
        return Problem(str(path), path.suffix or "no ending", rule, "convert it", "WRPO-D002")
    if not path.is_dir():
        fix = "correct the path; it must be seen from here"
        return Problem(str(path), "(nothing)", "no such file or folder", fix, "WRPO-D002")
    try:
        return _find_in_folder(path)
    except _READ_ERRORS as error:
        fix = "save it again with `save_to_disk`"
        return Problem(str(path), str(error), "the dataset folder cannot be read", fix, "WRPO-D003")


def _find_in_folder(folder: Path) -> list[Path] | Problem:
    if (folder / "dataset_dict.json").is_file():
        splits = json.loads((folder / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
        if "train" not in splits:
            fix = f"set the path to one of its folders: {', '.join(splits)}"
            return Problem(str(folder), str(splits), "the dataset has no split `train`", fix, "WRPO-D002")
        folder = folder / "train"
    if (folder / "state.json").is_file():
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        files = [folder / Path(entry["filename"]).name for entry in state["_data_files"]]
        return _leaving(files, folder) or files
    found = sorted(p for p in folder.iterdir() if p.suffix in (".parquet", ".jsonl") and p.name[0] not in "._")
    rule = "the folder holds no .parquet or .jsonl file and is no saved dataset"
    return _leaving(found, folder) or found or Problem(str(folder), "(nothing)", rule, "correct the path", "WRPO-D002")


def _leaving(files: Sequence[Path], folder: Path) -> Problem | None:
    """Return a problem when a folder that may have come from elsewhere holds a link to a file outside of it."""
    for file in files:
        if not file.resolve().is_relative_to(folder.resolve()):
            rule, fix = "a link in a folder of prompts leads out of it", "name the file itself, or copy it"
            return Problem(str(file), "symbolic link", rule, fix, "WRPO-D051")
    return None


def _read_file(file: Path, columns: Sequence[str]) -> Iterator[FileRow | Problem]:
    if file.exists() and not file.is_file():
        # A pipe would be waited for, for ever.
        fix = "remove or rename it"
        yield Problem(str(file), "a folder, pipe or device", "the file is no regular file", fix, "WRPO-D003")
        return
    if file.suffix == ".jsonl":
        yield from _read_json_lines(file)
        return
    read = _read_parquet if file.suffix == ".parquet" else _read_arrow_stream
    batches, number = read(file, columns), 1
    while True:
        try:
            batch = next(batches, None)
        except _READ_ERRORS as error:
            rule = "the file cannot be read; it may be cut"
            yield Problem(str(file), shown(str(error), 160), rule, "write it again", "WRPO-D003")
            return
        if batch is None:
            return
        if isinstance(batch, Problem):
            yield batch
        elif (damage := _damage(batch)) is not None:
            rule = "the file cannot be read; it may be damaged"
            yield Problem(str(file), shown(damage, 160), rule, "write it again", "WRPO-D003")
            return
        else:
            yield from _batch_rows(file, batch, number)
            number += batch.num_rows


def _read_parquet(file: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch | Problem]:
    with file.open("rb") as stream:
        # pyarrow builds the types as soon as it opens the file, for its metadata too: the footer is searched before.
        if has_extension_type(footer_of(stream)):
            yield _extension_problem(file)
            return
        metadata = pq.read_metadata(stream)
        if declared := oversized(metadata, columns, file.stat().st_size):
            yield _oversized_problem(file, declared)
            return
        opened = pq.ParquetFile(
            stream, metadata=metadata, read_dictionary=text_leaves(metadata, columns), buffer_size=_READ_BYTES,
            page_checksum_verification=True,
        )  # fmt: skip
        if problems := _column_problems(file, opened.schema_arrow, columns):
            yield from problems
            return
        for batch in opened.iter_batches(_BATCH_ROWS, columns=list(columns)):
            # By a prefix of their names further columns may have come along.
            yield batch.select(list(columns))


def _read_arrow_stream(file: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch | Problem]:
    with file.open("rb") as stream:
        try:
            schema = pa.ipc.MessageReader.open_stream(stream).read_next_message().metadata.to_pybytes()
        except StopIteration as error:
            raise ValueError("the file is empty") from error
        if EXTENSION_KEY in schema:
            yield _extension_problem(file)
            return
        stream.seek(0)
        reader = pa.ipc.open_stream(stream)
        if problems := _column_problems(file, reader.schema, columns):
            yield from problems
            return
        for batch in reader:
            yield batch.select(list(columns))


def _extension_problem(file: Path) -> Problem:
    rule = "a column has an Arrow extension type, which may run code when it is read"
    return Problem(str(file), "extension type", rule, "write the file again with plain columns", "WRPO-D004")


def _oversized_problem(file: Path, declared: str) -> Problem:
    rule = "the file declares more than it can hold of prompts that differ"
    return Problem(str(file), declared, rule, "write it again, in smaller files", "WRPO-D050")


def _column_problems(file: Path, schema: pa.Schema, columns: Sequence[str]) -> list[Problem]:
    problems = []
    for column in columns:
        count = schema.names.count(column)
        place = f"{file}, column `{column}`"
        if count == 0:
            fix = column_hint(column, schema.names)
            problems.append(Problem(place, "(nothing)", "no such column", fix, "WRPO-D005"))
        elif count > 1:
            problems.append(Problem(place, f"{count} columns", "the name stands twice", "rename one", "WRPO-D005"))
        elif not _plain(kind := schema.field(column).type):
            rule = "the column must hold text, numbers or lists of {role, content}"
            problems.append(Problem(place, shown(str(kind)), rule, "write the column again as text", "WRPO-D006"))
    return problems


def _plain(kind: pa.DataType) -> bool:
    """Tell whether a column type holds nothing but text, numbers, truth values and lists or structs of them."""
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _plain(kind.value_type)
    if pa.types.is_struct(kind):
        return all(_plain(kind.field(index).type) for index in range(kind.num_fields))
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    return text or number or pa.types.is_boolean(kind) or pa.types.is_null(kind)


def _damage(batch: pa.RecordBatch) -> str | None:
    """Return what is wrong with the memory layout of a batch: values out of its buffers would end the process.

    Text that is not UTF-8 is no such thing: its row is told later on.
    """
    for column in batch.columns:
        try:
            column.validate(full=True)
        except pa.ArrowInvalid as error:
            as_bytes = _bytes_in_place_of_text(column.type)
            try:
                column.cast(as_bytes).validate(full=True)
            except pa.ArrowException:
                return str(error)
    return None


def _bytes_in_place_of_text(kind: pa.DataType) -> pa.DataType:
    """Return the type of the same layout whose values need not be UTF-8; what is no text stays as it is."""
    if pa.types.is_list(kind):
        return pa.list_(_bytes_in_place_of_text(kind.value_type))
    if pa.types.is_large_list(kind):
        return pa.large_list(_bytes_in_place_of_text(kind.value_type))
    if pa.types.is_struct(kind):
        fields = [kind.field(index) for index in range(kind.num_fields)]
        return pa.struct([field.with_type(_bytes_in_place_of_text(field.type)) for field in fields])
    if pa.types.is_dictionary(kind):
        # As Parquet's text is read: a long value in many rows is in memory once.
        return pa.dictionary(kind.index_type, _bytes_in_place_of_text(kind.value_type))
    of_text = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary(), pa.string_view(): pa.binary_view()}
    return of_text.get(kind, kind)


def _batch_rows(file: Path, batch: pa.RecordBatch, first_number: int) -> Iterator[FileRow]:
    """Yield the rows of a batch, of which only one at a time is made into Python's objects."""
    names = batch.schema.names
    for number, row in enumerate(zip(*map(batch.column, names), strict=True), start=first_number):
        yield FileRow(file, number, dict(zip(names, map(_value_or_invalid, row), strict=True)))


def _value_or_invalid(item: pa.Scalar) -> Any:
    try:
        return item.as_py()
    except UnicodeDecodeError:
        return InvalidText()


def _read_json_lines(file: Path) -> Iterator[FileRow | Problem]:
    try:
        with file.open("rb") as stream:
            for number, line in enumerate(iter(lambda: stream.readline(_MAX_LINE_BYTES + 1), b""), start=1):
                if len(line) > _MAX_LINE_BYTES:
                    yield _long_line_problem(file, number)
                    return
                text = (line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line).removesuffix(b"\n")
                if text.strip():
                    yield _read_json_line(file, number, text)
    except OSError as error:
        fix = "correct its path or its permissions"
        yield Problem(str(file), str(error), "the file cannot be read", fix, "WRPO-D003")


def _long_line_problem(file: Path, number: int) -> Problem:
    value, rule = f"more than {_MAX_LINE_BYTES} bytes", "a line is longer than any prompt can be"
    return Problem(row_place(file, number), value, rule, "is this a file of JSON lines? cut it", "WRPO-D050")


def _read_json_line(file: Path, number: int, line: bytes) -> FileRow | Problem:
    place = f"{file}, row {number}"
    try:
        values = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        value = f"byte {error.object[error.start]:#04x}"
        return Problem(place, value, "the line is not UTF-8", "save it as UTF-8", "WRPO-D008")
    except (ValueError, RecursionError) as error:
        # A number of more than 4,300 digits is a bare ValueError.
        return Problem(place, described(line), f"the line is not JSON: {error}", "repair it", "WRPO-D007")
    if not isinstance(values, dict):
        rule, fix = "the line must hold a JSON object", 'write {"prompt": ...}'
        return Problem(place, described(values), rule, fix, "WRPO-D007")
    return FileRow(file, number, values)
