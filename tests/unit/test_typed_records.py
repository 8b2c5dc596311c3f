"""Records whose own hash fits and that hold something else than their readers expect are refused by field."""

import dataclasses
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pytest

from wrpo_ray.broken_sources import read_broken
from wrpo_ray.errors import StorageError
from wrpo_ray.failures import read_failures
from wrpo_ray.storage import lease_records, ledger
from wrpo_ray.storage.location import locate
from wrpo_ray.storage.manifest import FileEntry, Manifest, read_manifest
from wrpo_ray.storage.owner import surely_dead, this_process
from wrpo_ray.submissions import last_submission

FILE = {"path": "data/shard-0-00.parquet", "num_bytes": 3, "sha256": "0" * 64, "num_rows": 1, "key_range": ["a", "b"]}
MANIFEST = {
    "step": "s", "fingerprint": "f", "identity": {"a": [1, 1e-7, None, "\u00e9"]}, "inputs": {"p": "g"},
    "files": [FILE], "summary": {"n": 1}, "versions": {}, "seconds": 1.5,
}  # fmt: skip
COMMIT = {"shard": "shard-0", "file": FILE, "num_items": 2, "counts": {"a": 1}, "notes": {},
          "quarantined": [{"item": "x", "code": "engine_crash", "attempts": 2, "error": "e"}]}  # fmt: skip
PLAN = {"num_items": 3, "shard_sizes": [2, 1], "items_sha256": "0" * 64}
STEP = {"name": "sft", "fingerprint": "f", "inputs": [], "identity": {}, "source": None, "run": None}
START = {"result_version": 4, "epoch": 1, "started_at": "", "steps": [STEP], "versions": {}, "config": {}}
BROKEN = {"source": "a", "code": "WRPO-M001", "error": "e", "epoch": 1}
ODD_PATHS = ["", "/etc/passwd", "../x", "data/../../x", "./x", "a//b", "a\0b", "data/"]


def changed(record: dict[str, Any], dotted: str, value: Any) -> dict[str, Any]:
    """Return a copy of the record with another value at a path such as files.0.path."""
    copy = json.loads(json.dumps(record))
    *parents, last = [int(part) if part.isdecimal() else part for part in dotted.split(".")]
    node = copy
    for part in parents:
        node = node[part]
    node[last] = value
    return copy


def write(path: Path, record: dict[str, Any]) -> None:
    """Write a record with its hash; halves of surrogate pairs, which our own writer refuses, as escapes."""
    digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode("ascii")).hexdigest()
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({**record, "sha256": digest}))


def test_whole_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert (locate(tmp_path) / "manifest.json").create_sealed(MANIFEST)
    found = read_manifest(locate(tmp_path))
    assert found == Manifest(**{**MANIFEST, "files": (FileEntry(**FILE),)})
    assert json.loads(json.dumps(dataclasses.asdict(found)))["identity"] == MANIFEST["identity"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("files", None), ("files", [7]), ("files.0.num_bytes", "3"), ("files.0.num_rows", 1.5), ("files.0.sha256", []),
        ("files.0.key_range", ["a"]), ("files.0.more", 1), ("inputs", -1), ("inputs.p", None), ("summary", "x"),
        ("input_contents", 1.5), ("seconds", "1"), ("step", "\ud800"), ("step", None), ("more", 1),
        *(("files.0.path", path) for path in ODD_PATHS),
    ],
)  # fmt: skip
def test_odd_manifest(field: str, value: Any, tmp_path: Path) -> None:
    write(tmp_path / "manifest.json", changed(MANIFEST, field, value))
    with pytest.raises(StorageError, match="is not a manifest of this version") as caught:
        read_manifest(locate(tmp_path))
    assert caught.value.code == "WRPO-S011"
    assert field.split(".0")[0] in caught.value.message


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_items", "2"), ("num_items", []), ("file", {}), ("file.path", "../x"), ("counts", {"a": "1"}), ("notes", 7),
     ("file.path", "data/shard-1-00.parquet"),
     ("quarantined", [{}]), ("quarantined.0.attempts", None), ("shard", "\ud800"), ("shard", "other")],
)  # fmt: skip
def test_odd_commit(field: str, value: Any, tmp_path: Path) -> None:
    write(tmp_path / "commits/shard-0.json", changed(COMMIT, field, value))
    with pytest.raises(StorageError) as caught:
        ledger.read_commit(locate(tmp_path), "shard-0")
    assert caught.value.code == "WRPO-S019"
    caught.value.message.encode()


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_items", 4), ("num_items", "3"), ("shard_sizes", "21"), ("shard_sizes", [4, -1]), ("items_sha256", "0")],
)
def test_odd_plan(field: str, value: Any, tmp_path: Path) -> None:
    (locate(tmp_path) / "plan.json").create_sealed(changed(PLAN, field, value))
    with pytest.raises(StorageError) as caught:
        ledger.stored_plan(locate(tmp_path), "0" * 64, [2, 1])
    assert caught.value.code == "WRPO-S030"


@pytest.mark.parametrize(
    ("field", "value"),
    [("steps", None), ("steps.0.name", "../x"), ("steps.0.fingerprint", ""), ("steps.0.run", "../../other"),
     ("steps.0.inputs", ["later"]), ("steps.0.identity", []), ("result_version", "4"), ("config", None),
     ("steps.0", {})],
)  # fmt: skip
def test_odd_start(field: str, value: Any, tmp_path: Path) -> None:
    (locate(tmp_path) / "000001.json").create_sealed(changed(START, field, value))
    with pytest.raises(StorageError, match="is not the record of a start of this version: ") as caught:
        last_submission(locate(tmp_path))
    assert caught.value.code == "WRPO-S030"


@pytest.mark.parametrize(("field", "value"), [("source", None), ("source", [1]), ("error", 7)])
def test_odd_broken_source(field: str, value: Any, tmp_path: Path) -> None:
    (locate(tmp_path) / "a.json").create_sealed(changed(BROKEN, field, value))
    with pytest.raises(StorageError, match="is not the record of a broken source"):
        read_broken(locate(tmp_path))


@pytest.mark.parametrize("record", [{}, {"step": 7}, {**dict.fromkeys(("step", "fingerprint", "at"), "x"), "epoch": 1}])
def test_odd_failure_is_none(record: dict[str, Any], tmp_path: Path) -> None:
    (locate(tmp_path) / "failures/000001.json").create_sealed(record)
    assert read_failures(locate(tmp_path)) == []


@pytest.mark.parametrize(
    "record", [[], 7, {}, {"epoch": 1, "owner": {}, "timeout_s": 60}, {"epoch": 1, "owner": None, "timeout_s": "60"}]
)
def test_odd_lease(record: Any, tmp_path: Path) -> None:
    (locate(tmp_path) / "000001.json").write_json(record)
    with pytest.raises(StorageError, match="is not a lease of this version") as caught:
        lease_records.read_holder(locate(tmp_path))
    assert caught.value.code == "WRPO-S040"
    assert "make sure that no driver of the run is alive" in str(caught.value.help)


@pytest.mark.parametrize("pid", [2**31, 2**63, -(2**40)])
def test_a_number_that_no_process_has_says_nothing(pid: int) -> None:
    assert not surely_dead(dataclasses.replace(this_process(), pid=pid))


@pytest.mark.parametrize("text", ['{"a": NaN, "sha256": "0"}', '{"a": Infinity, "sha256": "0"}', "[" * 100_000])
def test_what_python_reads_and_is_no_json(text: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(StorageError) as caught:
        read_manifest(locate(tmp_path))
    assert caught.value.code in ("WRPO-S010", "WRPO-S023")


def test_records_hold_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range"):
        (locate(tmp_path) / "manifest.json").create_sealed({**MANIFEST, "seconds": math.nan})
