"""Many prompt_ids as one array of bytes: as Python strings with an index, they would take ten times the room."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np


class PromptIds(Sequence[str]):
    """Distinct prompt_ids in order."""

    def __init__(self, ordered: np.ndarray) -> None:
        """ordered: array of ASCII bytes; see `of_groups`."""
        self._ids = ordered

    @classmethod
    def of_groups(cls, groups: Iterable[Sequence[str]]) -> PromptIds:
        """Return all ids of the groups, which come in any order."""
        arrays = [np.array([prompt_id.encode("ascii") for prompt_id in group], dtype=np.bytes_) for group in groups]
        return cls(np.unique(np.concatenate(arrays)) if arrays else np.array([], dtype=np.bytes_))

    def __len__(self) -> int:
        return len(self._ids)

    @overload
    def __getitem__(self, number: int) -> str: ...
    @overload
    def __getitem__(self, number: slice) -> PromptIds: ...
    def __getitem__(self, number: int | slice) -> str | PromptIds:
        if isinstance(number, slice):
            return PromptIds(self._ids[number])
        return bytes(self._ids[number]).decode("ascii")

    def find(self, prompt_id: str) -> int | None:
        """Return the number of a prompt_id, or None when it is not there."""
        key = prompt_id.encode("utf-8")
        number = int(np.searchsorted(self._ids, key))
        return number if number < len(self._ids) and bytes(self._ids[number]) == key else None

    def take(self, numbers: np.ndarray) -> PromptIds:
        """Return the ids with these numbers."""
        return PromptIds(self._ids[numbers])


def taken(prompt_ids: Sequence[str], numbers: np.ndarray) -> Sequence[str]:
    """Return some of the ids, in as little room as they had."""
    if isinstance(prompt_ids, PromptIds):
        return prompt_ids.take(numbers)
    return tuple(prompt_ids[int(number)] for number in numbers)
