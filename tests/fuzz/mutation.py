"""One change to a JSON value or to the bytes of a file."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

from hypothesis import strategies as st

KeyPath = tuple[str | int, ...]
DELETED = object()
ODD_JSON: list[Any] = [
    None, True, 0, 1, -1, 2**31, 2**63, 2**70, 1.5, 1e308, math.nan, math.inf, "", "x", "7", "../../x", "/etc/passwd",
    "a\0b", "\ud800", "x" * 5000, "0" * 64, [], [1], [None], ["a", "a"], {}, {"a": 1},
]  # fmt: skip


def nodes(value: Any, path: KeyPath = ()) -> Iterator[KeyPath]:
    """Yield the path of every value inside a JSON value."""
    if path:
        yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from nodes(child, (*path, key))


def at(value: Any, path: KeyPath) -> Any:
    """Return what stands at a path."""
    for part in path:
        value = value[part]
    return value


def with_change(value: Any, path: KeyPath, new: Any) -> Any:
    """Return a copy of a JSON value with something else at a path, or without it."""
    changed = copy.deepcopy(value)
    parent = at(changed, path[:-1])
    if new is DELETED:
        del parent[path[-1]]
    else:
        parent[path[-1]] = copy.deepcopy(new)
    return changed


@st.composite
def changed_json(draw: st.DrawFn, values: Sequence[Any]) -> Any:
    """Draw one of `values` with one value inside it replaced or taken away."""
    value = draw(st.sampled_from(values))
    path = draw(st.sampled_from(list(nodes(value))))
    return with_change(value, path, draw(st.sampled_from([*ODD_JSON, DELETED])))


@st.composite
def changed_bytes(draw: st.DrawFn, contents: Sequence[bytes]) -> bytes:
    """Draw one of `contents` with some bytes replaced, inserted or removed, or cut."""
    content = draw(st.sampled_from(contents))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(content)))
        length = draw(st.sampled_from([0, 1, 1, 1, 4, 20, len(content)]))
        content = content[:start] + draw(st.binary(max_size=4)) + content[start + length :]
    return content


def json_bytes(value: Any) -> bytes:
    """Return JSON as Python writes it: NaN, Infinity and halves of surrogate pairs included."""
    return json.dumps(value).encode("ascii")
