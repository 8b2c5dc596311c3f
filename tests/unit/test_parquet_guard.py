"""Files that declare or hold more than prompts can: refused before they are decoded, or read in little memory."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from wrpo_ray import parquet_guard, prompt_files
from wrpo_ray.config import PromptsConfig
from wrpo_ray.errors import StorageError
from wrpo_ray.parquet_guard import footer_of, oversized, require_plain, text_leaves
from wrpo_ray.prompt_files import FileRow, read_rows
from wrpo_ray.prompts import check_prompts
from wrpo_ray.run_inspect.files import measure
from wrpo_ray.storage.location import locate
from wrpo_ray.storage.manifest import FileEntry
from wrpo_ray.storage.tables import read_verified

MIB = 2**20


def refusal(path: Path) -> tuple[str, str, str]:
    (problem,) = read_rows(str(path), ["prompt"])
    assert not isinstance(problem, FileRow)
    return problem.code, problem.place, problem.value


def test_more_rows_than_bytes_can_tell_apart(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"prompt": pa.array(["same"] * 3_000_000)}), path)
    assert path.stat().st_size < 100_000
    code, place, value = refusal(path)
    assert (code, place) == ("WRPO-D050", str(path))
    assert value.startswith("3000000 rows in a file of")


def test_a_column_that_unpacks_to_far_more_than_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_guard, "_FREE_BYTES", 16 * MIB)
    path = tmp_path / "bomb.parquet"
    table = pa.table({"prompt": pa.array(["a" * MIB] * 20), "other": ["x"] * 20})
    pq.write_table(table, path, compression="zstd", use_dictionary=False)
    before = pa.default_memory_pool().bytes_allocated()
    code, _, value = refusal(path)
    assert code == "WRPO-D050"
    assert "of column prompt out of" in value
    assert pa.default_memory_pool().bytes_allocated() - before < MIB
    # A column that nobody reads does no harm.
    assert oversized(pq.read_metadata(path), ["other"], path.stat().st_size) is None


def test_ordinary_text_is_not_oversized(tmp_path: Path) -> None:
    path = tmp_path / "fine.parquet"
    pq.write_table(pa.table({"prompt": [f"question {n}" for n in range(200_000)]}), path, compression="zstd")
    assert oversized(pq.read_metadata(path), ["prompt"], path.stat().st_size) is None


@pytest.mark.parametrize("declared", [10_000, 2**31 - 1, 2**32 - 1])
def test_metadata_larger_than_its_file(tmp_path: Path, declared: int) -> None:
    path = tmp_path / "footer.parquet"
    pq.write_table(pa.table({"prompt": ["a"]}), path)
    path.write_bytes(path.read_bytes()[:-8] + declared.to_bytes(4, "little") + b"PAR1")
    with path.open("rb") as stream, pytest.raises(ValueError, match=f"declared as {declared} bytes"):
        footer_of(stream)
    assert refusal(path)[0] == "WRPO-D003"


def test_one_long_value_in_many_rows_is_in_memory_once(tmp_path: Path) -> None:
    path = tmp_path / "dictionary.parquet"
    long = "b" * (4 * MIB)
    messages = [[{"role": "user", "content": long}]] * 60
    pq.write_table(pa.table({"prompt": messages}), path, row_group_size=60)
    metadata = pq.read_metadata(path)
    assert text_leaves(metadata, ["prompt"]) == ["prompt.list.element.role", "prompt.list.element.content"]
    most = 0
    for row in read_rows(str(path), ["prompt"]):
        assert isinstance(row, FileRow)
        assert row.values["prompt"] == [{"role": "user", "content": long}]
        most = max(most, pa.default_memory_pool().bytes_allocated())
    assert most < 64 * MIB


def test_prompt_that_no_model_reads(tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    path.write_text(json.dumps({"prompt": "c" * (2**24 + 1)}) + "\n" + json.dumps({"prompt": "fine"}) + "\n")
    (problem,) = check_prompts(PromptsConfig(path=str(path)))
    assert (problem.code, problem.place) == ("WRPO-D050", f"{path}, row 1")
    assert problem.value == "text of 16777217 characters"


def test_line_without_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_files, "_MAX_LINE_BYTES", 100)
    path = tmp_path / "line.jsonl"
    path.write_text(json.dumps({"prompt": "fine"}) + "\n" + "d" * 1000)
    first, problem = read_rows(str(path), ["prompt"])
    assert isinstance(first, FileRow)
    assert not isinstance(problem, FileRow)
    assert (problem.code, problem.place) == ("WRPO-D050", f"{path}, row 2")


def test_number_with_too_many_digits_is_no_traceback(tmp_path: Path) -> None:
    path = tmp_path / "digits.jsonl"
    path.write_text('{"prompt": ' + "9" * 5000 + "}\n")
    assert refusal(path)[0] == "WRPO-D007"


@pytest.mark.parametrize("saved", [False, True])
def test_link_that_leads_out_of_a_folder(tmp_path: Path, saved: bool) -> None:
    folder, outside = tmp_path / "prompts", tmp_path / "outside.jsonl"
    folder.mkdir()
    outside.write_text('{"prompt": "canary"}\n')
    (folder / "inside.jsonl").write_text('{"prompt": "fine"}\n')
    (folder / "link.jsonl").symlink_to(folder / "inside.jsonl")
    assert all(isinstance(row, FileRow) for row in read_rows(str(folder), ["prompt"]))
    (folder / "link.jsonl").unlink()
    (folder / "link.jsonl").symlink_to(outside)
    if saved:
        (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "../../link.jsonl"}]}))
    assert refusal(folder)[:2] == ("WRPO-D051", str(folder / "link.jsonl"))


def with_extension(path: Path) -> Path:
    metadata = {b"ARROW:extension:name": b"ray.data.arrow_pickled_object", b"ARROW:extension:metadata": b"cposix"}
    schema = pa.schema([pa.field("prompt_id", pa.string(), metadata=metadata)])
    pq.write_table(pa.Table.from_arrays([pa.array(["a"])], schema=schema), path)
    return path


def test_a_runs_own_files_hold_no_extension_types_either(tmp_path: Path) -> None:
    """A run's folder may come from somebody else, with manifests that fit: report and inspect read it."""
    content = with_extension(tmp_path / "x.parquet").read_bytes()
    entry = FileEntry("x.parquet", len(content), hashlib.sha256(content).hexdigest(), 1)
    with pytest.raises(StorageError, match="Arrow extension type") as caught:
        read_verified(locate(tmp_path), entry, pa.schema([("prompt_id", pa.string())]))
    assert caught.value.code == "WRPO-S013"
    measured = measure(locate(tmp_path) / "x.parquet", parquet=True)
    assert "Arrow extension type" in str(measured.problem)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"x" * 100, b"PAR1" + b"\xff" * 4 + b"PAR1"])
def test_what_is_no_parquet_file(content: bytes) -> None:
    with pytest.raises(pa.ArrowInvalid):
        require_plain(io.BytesIO(content))
