"""Log-probs of the reference joined to tokenised rows, some rows at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wrpo_ray.errors import DataError
from wrpo_ray.schema import ReferenceLogps
from wrpo_ray.storage.location import Location
from wrpo_ray.train.keyed_files import KeyedFiles
from wrpo_ray.train.token_file import TokenRow
from wrpo_ray.train.tokens import QUADRUPLE_RESPONSES, Named

_COLUMNS = tuple(f"{name}_logps" for name in QUADRUPLE_RESPONSES)


class ReferenceJoin:
    """Joins by prompt_id with the rows of a finished reference step, and counts the rows for which that fails."""

    def __init__(self, reference: Location) -> None:
        self._files = KeyedFiles(reference, ReferenceLogps)
        self._missing, self._other = Named(), Named()

    def joined(self, rows: Sequence[TokenRow]) -> list[TokenRow]:
        """Return `rows` with the reference's log-probs added, without those that `require_whole` will name."""
        found = {row.prompt_id: row for row in self._files.rows([row["prompt_id"] for row in rows])}
        self._missing.add([row["prompt_id"] for row in rows if row["prompt_id"] not in found])
        pairs = [(row, found[row["prompt_id"]]) for row in rows if row["prompt_id"] in found]
        self._other.add([row["prompt_id"] for row, logps in pairs if _lengths(row) != _reference_lengths(logps)])
        return [
            {**row, **{column: getattr(logps, column) for column in _COLUMNS}}
            for row, logps in pairs
            if _lengths(row) == _reference_lengths(logps)
        ]

    def require_whole(self) -> None:
        """Raise DataError, naming up to ten prompt_ids, when one was missing or made with other token counts."""
        if self._missing.num_all:
            raise DataError(f"{self._missing.num_all} rows have no reference log-probs: {self._missing}")
        if self._other.num_all:
            raise DataError(f"{self._other.num_all} rows were tokenised differently for the reference: {self._other}")


def _lengths(row: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(len(row[name]) for name in QUADRUPLE_RESPONSES)


def _reference_lengths(row: ReferenceLogps) -> tuple[int, ...]:
    return tuple(getattr(row, f"{name}_num_tokens") for name in QUADRUPLE_RESPONSES)
