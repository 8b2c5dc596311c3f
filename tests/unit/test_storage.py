"""Files appear whole or not at all, and are read by manifest only."""

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from wrpo_ray.errors import StorageError
from wrpo_ray.schema import SFTExample, to_table
from wrpo_ray.storage import tables
from wrpo_ray.storage.location import Location, locate
from wrpo_ray.storage.manifest import FileEntry, Manifest, RunLayout, create_manifest, read_manifest
from wrpo_ray.storage.tables import (
    concatenated,
    iter_rows,
    parquet_bytes,
    read_rows,
    read_verified,
    write_file,
    write_rows,
    write_table,
)

ROWS = [SFTExample(f"p{n}", [{"role": "user", "content": "Hi"}], "text", "first", float(n), "stop") for n in range(3)]


@pytest.fixture
def folder(tmp_path: Path) -> Location:
    return locate(tmp_path)


def finish(folder: Location, *files: FileEntry) -> Manifest:
    """Mark `folder` as complete with `files`."""
    manifest = Manifest("sft", "f" * 16, {"a": 1}, {"score": "0" * 16}, files, {"rows": 3}, {"ray": "2"}, 1.5)
    return create_manifest(folder, manifest)


def test_rows_come_back_in_the_order_of_the_manifest(folder: Location) -> None:
    late = write_rows(folder, "data/b.parquet", ROWS[1:], SFTExample)
    early = write_rows(folder, "data/a.parquet", ROWS[:1], SFTExample)
    finish(folder, early, late)
    assert read_rows(folder, SFTExample) == ROWS


def test_manifest_comes_back_as_it_was(folder: Location) -> None:
    written = finish(folder, write_rows(folder, "data/a.parquet", ROWS, SFTExample))
    assert read_manifest(folder) == written


def test_first_manifest_holds(folder: Location) -> None:
    first = finish(folder)
    assert create_manifest(folder, dataclasses.replace(first, seconds=9.0)) == first
    assert read_manifest(folder) == first


def test_entry_counts_rows_and_bytes(folder: Location, tmp_path: Path) -> None:
    entry = write_rows(folder, "data/a.parquet", ROWS, SFTExample)
    assert (entry.num_rows, entry.num_bytes) == (3, (tmp_path / "data/a.parquet").stat().st_size)
    assert write_file(folder, "b", b"12") == FileEntry(
        "b", 2, "6b51d431df5d7f141cbececcf79edf3dd861c3b4069f0b11661a3eefacbba918", None
    )


def test_entry_knows_its_range_of_prompts_where_there_is_one(folder: Location) -> None:
    entry = write_rows(folder, "data/a.parquet", [ROWS[2], ROWS[0]], SFTExample)
    assert entry.key_range == ("p0", "p2")
    assert FileEntry(**json.loads(json.dumps(dataclasses.asdict(entry)))) == entry
    empty = write_rows(folder, "data/b.parquet", [], SFTExample)
    assert empty.key_range is None
    assert not empty.may_hold(("p0", "p2"))
    assert write_table(folder, "data/c.parquet", pa.table({"x": [1]})).key_range is None
    assert [entry.may_hold(other) for other in (("p2", "p3"), ("p", "p0"), ("p3", "p4"), ("o", "p"), None)] == [
        True, True, False, False, True,
    ]  # fmt: skip


def test_manifests_of_older_versions_know_no_range(folder: Location) -> None:
    written = finish(folder, write_rows(folder, "data/a.parquet", ROWS, SFTExample))
    raw = (folder / "manifest.json").read_sealed()
    del raw["files"][0]["key_range"]
    (folder / "manifest.json").delete()
    (folder / "manifest.json").create_sealed(raw)
    assert read_manifest(folder) == dataclasses.replace(
        written, files=(dataclasses.replace(written.files[0], key_range=None),)
    )
    assert read_rows(folder, SFTExample) == ROWS


@pytest.mark.parametrize("at_once", [0, 2**20])
def test_pieces_become_one_file(folder: Location, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    """Large files go to the store as files, small ones as bytes."""
    monkeypatch.setattr(tables, "_MAX_BYTES_IN_MEMORY", at_once)
    assert concatenated(folder, "list.jsonl", iter([b"1\n", b"2\n"])) == FileEntry(
        "list.jsonl", 4, hashlib.sha256(b"1\n2\n").hexdigest(), None
    )
    assert (folder / "list.jsonl").read_bytes() == b"1\n2\n"


def test_no_manifest_means_not_complete(folder: Location) -> None:
    write_rows(folder, "data/a.parquet", ROWS, SFTExample)
    assert read_manifest(folder) is None
    with pytest.raises(StorageError, match="not complete"):
        read_rows(folder, SFTExample)


@pytest.mark.parametrize("text", ["[]", "{}", '{"files": [1]}', "3", '{"files": 5}', '{"files": [{"path": "a"}]}'])
def test_manifest_that_is_none_is_refused_and_named(folder: Location, text: str) -> None:
    (folder / "manifest.json").write_bytes(text.encode())
    with pytest.raises(StorageError, match=r"manifest\.json") as caught:
        read_manifest(folder)
    assert caught.value.exit_code == 6


def test_rows_come_back_file_by_file(folder: Location) -> None:
    first = write_rows(folder, "data/a.parquet", ROWS[:1], SFTExample)
    second = write_rows(folder, "data/b.parquet", ROWS[1:], SFTExample)
    finish(folder, first, second)
    assert list(iter_rows(folder, SFTExample)) == [ROWS[:1], ROWS[1:]]


def test_files_that_no_manifest_names_are_not_read(folder: Location) -> None:
    finish(folder, write_rows(folder, "data/a.parquet", ROWS[:1], SFTExample))
    write_rows(folder, "data/b.parquet", ROWS[1:], SFTExample)
    assert read_rows(folder, SFTExample) == ROWS[:1]


def test_changed_file_is_found_out(folder: Location) -> None:
    finish(folder, write_rows(folder, "data/a.parquet", ROWS, SFTExample))
    content = bytearray((folder / "data/a.parquet").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "data/a.parquet").write_bytes(bytes(content))
    with pytest.raises(StorageError, match=r"a\.parquet was changed"):
        read_rows(folder, SFTExample)


def test_file_without_a_column_is_refused(folder: Location) -> None:
    content = parquet_bytes(to_table(ROWS, SFTExample).drop_columns(["reward"]))
    entry = dataclasses.replace(write_file(folder, "data/a.parquet", content), num_rows=3)
    with pytest.raises(StorageError, match="lacks the columns reward"):
        read_verified(folder, entry, SFTExample.SCHEMA)


def flips_in_pages(content: bytes) -> Iterator[bytes]:
    """Yield the file with one bit flipped, for each byte of its only column's pages."""
    column = pq.ParquetFile(pa.BufferReader(content)).metadata.row_group(0).column(0)
    start = column.dictionary_page_offset or column.data_page_offset
    for place in range(start, start + column.total_compressed_size):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        yield bytes(changed)


def num_silent_changes(content: bytes, table: pa.Table, verify: bool) -> int:
    """Return how many flips make other values be read without an error."""
    silent = 0
    for changed in flips_in_pages(content):
        with contextlib.suppress(OSError, pa.ArrowException):
            read = pq.read_table(pa.BufferReader(changed), page_checksum_verification=verify)
            silent += not read.equals(table)
    return silent


def test_pages_carry_checksums() -> None:
    """They help a reader that has no manifest; a page's header is outside its checksum, so they are not enough."""
    table = pa.table({"number": pa.array(range(40), pa.int64())})
    content = parquet_bytes(table)
    assert num_silent_changes(content, table, verify=False) > 10
    assert num_silent_changes(content, table, verify=True) <= 2


def test_hash_finds_what_checksums_miss(folder: Location) -> None:
    table = pa.table({"number": pa.array(range(40), pa.int64())})
    content = parquet_bytes(table)
    entry = dataclasses.replace(write_file(folder, "a.parquet", content), num_rows=40)
    for changed in flips_in_pages(content):
        Path(str(folder / "a.parquet")).write_bytes(changed)
        with pytest.raises(StorageError, match=r"a\.parquet was changed"):
            read_verified(folder, entry, table.schema)


def test_equal_tables_give_equal_bytes() -> None:
    assert parquet_bytes(to_table(ROWS, SFTExample)) == parquet_bytes(to_table(list(ROWS), SFTExample))


def test_interrupted_write_leaves_the_old_file(folder: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    place = folder / "deep" / "a.bin"
    place.write_bytes(b"old")

    def power_cut(descriptor: int) -> None:
        raise OSError("power cut")

    monkeypatch.setattr(os, "fsync", power_cut)
    with pytest.raises(StorageError, match=r"cannot write .*a\.bin: power cut"):
        place.write_bytes(b"new")
    assert place.read_bytes() == b"old"


def test_write_leaves_nothing_else_behind(folder: Location, tmp_path: Path) -> None:
    (folder / "a.bin").write_bytes(b"1")
    (folder / "a.bin").write_bytes(b"2")
    assert not (folder / "a.bin").create_json({"a": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_json_refuses_what_is_not_json(folder: Location) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        (folder / "a.json").write_json({"loss": float("nan")})
    assert not (folder / "a.json").exists()


def test_step_folders_tell_fingerprints_apart(folder: Location) -> None:
    layout = RunLayout(folder / "r")
    assert str(layout.step_folder("sft", "aa")) == f"{folder}/r/sft/aa"


def test_location_is_what_its_name_says(folder: Location) -> None:
    place = folder / "deep" / "a.bin"
    assert locate(str(place)) == place
    assert (place.name, place.relative_to(folder)) == ("a.bin", "deep/a.bin")
    with pytest.raises(ValueError, match="is not below"):
        folder.relative_to(place)
