"""A worker reads each file once while it is at work on it."""

import threading
import time

import pyarrow as pa

from wrpo_ray.data.recent_tables import RecentTables


def test_the_last_tables_are_kept_and_older_ones_read_again() -> None:
    read: list[str] = []

    def table_of(path: str) -> pa.Table:
        read.append(path)
        return pa.table({"path": [path]})

    recent = RecentTables(table_of)
    assert [recent.get(path)["path"].to_pylist() for path in "aabba"] == [[path] for path in "aabba"]
    assert read == ["a", "b"]
    for path in "cdeb":
        recent.get(path)
    assert read == [*"abcde", "b"]


def test_threads_that_want_the_same_table_read_it_once() -> None:
    read: list[str] = []

    def table_of(path: str) -> pa.Table:
        time.sleep(0.05)
        read.append(path)
        return pa.table({"path": [path]})

    recent = RecentTables(table_of)
    threads = [threading.Thread(target=recent.get, args=("a",)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read == ["a"]
