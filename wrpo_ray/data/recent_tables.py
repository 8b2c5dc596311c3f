"""The tables that were read last stay in memory: shards come in the order of the files, several at a time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

import pyarrow as pa

# As many as the shards that lie side by side in an engine may touch.
_IN_MEMORY = 4


class RecentTables:
    """Reads tables by path and keeps a few of those that were asked for last; several threads may ask at once."""

    def __init__(self, read: Callable[[str], pa.Table]) -> None:
        self._read = read
        self._tables: OrderedDict[str, pa.Table] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, path: str) -> pa.Table:
        """Return the table at `path`; raises what reading it raises."""
        # One reads while the others wait: they would mostly want the same file.
        with self._lock:
            table = self._tables.pop(path, None)
            if table is None:
                table = self._read(path)
            self._tables[path] = table
            while len(self._tables) > _IN_MEMORY:
                self._tables.popitem(last=False)
            return table
