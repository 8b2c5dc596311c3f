"""Files appear whole or not at all, and are read by manifest only."""

from pathlib import Path

import pytest

from wrpo_ray import storage
from wrpo_ray.errors import DataError
from wrpo_ray.schema import SFTExample
from wrpo_ray.storage import Manifest, RunLayout

ROWS = [SFTExample(f"p{n}", [{"role": "user", "content": "Hi"}], "text", "first", float(n), "stop") for n in range(3)]


def finish(folder: Path, *names: str) -> Manifest:
    """Mark `folder` as complete with the files `names`."""
    files = storage.describe_files(folder, [folder / name for name in names])
    manifest = Manifest("sft", "f" * 16, {"a": 1}, {"score": "0" * 16}, files, {"rows": 3}, {"ray": "2"}, 1.5)
    storage.write_manifest(folder, manifest)
    return manifest


def test_rows_come_back_in_order_of_file_names(tmp_path: Path) -> None:
    storage.write_rows(tmp_path / "data/b.parquet", ROWS[1:], SFTExample)
    storage.write_rows(tmp_path / "data/a.parquet", ROWS[:1], SFTExample)
    finish(tmp_path, "data/b.parquet", "data/a.parquet")
    assert storage.read_rows(tmp_path, SFTExample) == ROWS


def test_manifest_comes_back_as_it_was(tmp_path: Path) -> None:
    storage.write_rows(tmp_path / "data/a.parquet", ROWS, SFTExample)
    written = finish(tmp_path, "data/a.parquet")
    assert storage.read_manifest(tmp_path) == written


def test_entry_counts_rows_and_bytes(tmp_path: Path) -> None:
    entry = storage.write_rows(tmp_path / "data/a.parquet", ROWS, SFTExample)
    assert (entry.num_rows, entry.num_bytes) == (3, (tmp_path / "data/a.parquet").stat().st_size)
    described = storage.describe_files(tmp_path / "data", [tmp_path / "data/a.parquet"])
    assert (entry,) == described


def test_no_manifest_means_not_complete(tmp_path: Path) -> None:
    storage.write_rows(tmp_path / "data/a.parquet", ROWS, SFTExample)
    assert storage.read_manifest(tmp_path) is None
    with pytest.raises(DataError, match="not complete"):
        storage.read_rows(tmp_path, SFTExample)


def test_rows_come_back_file_by_file(tmp_path: Path) -> None:
    storage.write_rows(tmp_path / "data/a.parquet", ROWS[:1], SFTExample)
    storage.write_rows(tmp_path / "data/b.parquet", ROWS[1:], SFTExample)
    finish(tmp_path, "data/a.parquet", "data/b.parquet")
    assert list(storage.iter_rows(tmp_path, SFTExample)) == [ROWS[:1], ROWS[1:]]


def test_files_that_no_manifest_names_are_not_read(tmp_path: Path) -> None:
    storage.write_rows(tmp_path / "data/a.parquet", ROWS[:1], SFTExample)
    finish(tmp_path, "data/a.parquet")
    storage.write_rows(tmp_path / "data/b.parquet", ROWS[1:], SFTExample)
    assert storage.read_rows(tmp_path, SFTExample) == ROWS[:1]


def test_changed_file_is_found_out(tmp_path: Path) -> None:
    storage.write_rows(tmp_path / "data/a.parquet", ROWS, SFTExample)
    finish(tmp_path, "data/a.parquet")
    content = bytearray((tmp_path / "data/a.parquet").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "data/a.parquet").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.parquet was changed"):
        storage.read_rows(tmp_path, SFTExample)


def test_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "a.bin"
    storage.write_bytes(path, b"old")

    def power_cut(descriptor: int) -> None:
        raise OSError("power cut")

    monkeypatch.setattr(storage.os, "fsync", power_cut)
    with pytest.raises(OSError, match="power cut"):
        storage.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"


def test_write_leaves_nothing_else_behind(tmp_path: Path) -> None:
    storage.write_bytes(tmp_path / "a.bin", b"1")
    storage.write_bytes(tmp_path / "a.bin", b"2")
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_json_refuses_what_is_not_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        storage.write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert not (tmp_path / "a.json").exists()


def test_step_folders_tell_fingerprints_apart() -> None:
    layout = RunLayout(Path("runs/r"))
    assert layout.step_folder("sft", "aa") == Path("runs/r/sft/aa")
