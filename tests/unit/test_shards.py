"""A shard's file belongs to its content: another cut of the same rows never takes its place."""

from pathlib import Path

from wrpo_ray.data.shards import drop_other_files, shard_path


def test_another_cut_has_other_files_and_old_ones_go(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    old = shard_path(tmp_path, 0, "a b")
    new = shard_path(tmp_path, 0, "a b c d")
    assert old != new
    assert old == shard_path(tmp_path, 0, "a b")
    for path in (old, new):
        path.write_bytes(b"x")
    drop_other_files(tmp_path, [new])
    assert list((tmp_path / "data").iterdir()) == [new]


def test_files_sort_in_the_order_of_shards(tmp_path: Path) -> None:
    paths = [shard_path(tmp_path, number, str(number)) for number in range(12)]
    assert sorted(paths) == paths
