"""Cuts, commits and the account of every row."""

from pathlib import Path

import pyarrow as pa
import pytest

from wrpo_ray.errors import StorageError, WrpoError
from wrpo_ray.storage.ledger import QuarantinedRow, Shard, commit, finish, pending, planned
from wrpo_ray.storage.location import locate

EMPTY = pa.table({"item": pa.array([], pa.string())})


def rows(*items: str) -> pa.Table:
    return pa.table({"item": list(items)})


def test_the_first_cut_holds_whatever_size_and_order_come_later(tmp_path: Path) -> None:
    folder = locate(tmp_path)
    first = planned(folder, list("abcde"), 2)
    assert [shard.items for shard in first] == [("a", "b"), ("c", "d"), ("e",)]
    assert planned(folder, list("edcba"), 4) == first
    with pytest.raises(StorageError, match="plans 5 other items than the 4"):
        planned(folder, list("abcd"), 2)


def test_an_item_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WrpoError, match="1 items of the plan are there twice"):
        planned(locate(tmp_path), list("aba"), 2)


@pytest.mark.parametrize(
    ("done", "set_aside", "told"),
    [
        ("a", "", "1 of 2 rows have no outcome"),
        ("ab", "b", "1 have two"),
        ("abc", "", "1 are not its own"),
        ("a", "bb", "0 of 2 rows have no outcome"),
    ],
)
def test_every_row_has_exactly_one_outcome_or_nothing_is_stored(
    tmp_path: Path, done: str, set_aside: str, told: str
) -> None:
    folder = locate(tmp_path)
    quarantined = [QuarantinedRow(item, "engine_crash", 2, "x") for item in set_aside]
    with pytest.raises(WrpoError, match=told):
        commit(folder, Shard(0, ("a", "b")), EMPTY, done, quarantined)
    assert folder.walk() == []


def test_of_two_attempts_the_first_counts_and_the_other_leaves_nothing(tmp_path: Path) -> None:
    folder = locate(tmp_path)
    (shard,) = planned(folder, ["a"], 1)
    first = commit(folder, shard, rows("a"), ["a"], counts={"n": 1})
    second = commit(folder, shard, rows("other"), ["a"], counts={"n": 7})
    assert second == first
    assert len((folder / "data").walk()) == 1
    finished = finish(folder, [shard])
    assert finished.counts == {"n": 1}
    assert pending(folder, [shard]) == []


def test_a_step_is_not_finished_while_a_shard_lacks_its_commit_or_file(tmp_path: Path) -> None:
    folder = locate(tmp_path)
    shards = planned(folder, ["a", "b"], 1)
    entry = commit(folder, shards[0], rows("a"), ["a"])
    with pytest.raises(StorageError, match="has no commit"):
        finish(folder, shards)
    commit(folder, shards[1], rows("b"), ["b"])
    (folder / entry.file.path).delete()
    with pytest.raises(StorageError, match="is missing"):
        finish(folder, shards)


def test_rows_that_were_set_aside_are_listed_by_code_and_strangers_go(tmp_path: Path) -> None:
    folder = locate(tmp_path)
    (shard,) = planned(folder, ["a", "b"], 2)
    (folder / "data" / "lost.parquet").write_bytes(b"of an attempt that lost")
    commit(folder, shard, rows("a"), ["a"], [QuarantinedRow("b", "engine_crash", 3, "killed")])
    finished = finish(folder, [shard])
    assert [entry.path for entry in finished.files][1:] == ["quarantine/engine_crash.jsonl"]
    (line,) = (folder / "quarantine" / "engine_crash.jsonl").read_bytes().splitlines()
    assert line == b'{"item": "b", "code": "engine_crash", "attempts": 3, "error": "killed"}'
    assert len((folder / "data").walk()) == 1
