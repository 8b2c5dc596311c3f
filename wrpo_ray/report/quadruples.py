"""A sample of quadruples to browse: the same ones every time, few enough for a page, their texts read last."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from wrpo_ray.report.columns import pieces
from wrpo_ray.report.folder import RunFacts, StepFacts

MOST_CHARACTERS = 3000
# Long answers: a few rows at a time.
_ROWS_PER_PIECE = 512


@dataclass(frozen=True)
class Response:
    """One response as it is shown. cut: how many characters of its text are not."""

    role: str
    text: str
    cut: int
    reward: float
    is_unfinished: bool


@dataclass(frozen=True)
class Shown:
    """One quadruple as it is shown. gain: reward of the best source response less that of the target's best."""

    prompt_id: str
    source: str
    messages: tuple[tuple[str, str], ...]
    responses: tuple[Response, ...]

    @property
    def gain(self) -> float:
        """See the class."""
        return self.responses[0].reward - self.responses[1].reward

    @property
    def first_line(self) -> str:
        """The beginning of the last message, which is the question."""
        return " ".join(self.messages[-1][1].split())[:160] if self.messages else ""


_ROLES = {
    "source_chosen": "y_ws: best of the sources",
    "target_chosen": "y_wt: best of the target",
    "rejected": "y_l: worst of the target",
}


def sample_of(facts: RunFacts, most: int) -> list[Shown]:
    """Return at most `most` quadruples in order of a hash of their prompt_id: which ones depends on nothing else."""
    step = facts.steps.get("fuse")
    if step is None or most <= 0:
        return []
    wanted = chosen_ids(step, most)
    found = {row["prompt_id"]: _shown(row) for row in _rows(step, wanted)}
    return [found[prompt_id] for prompt_id in wanted if prompt_id in found]


def chosen_ids(step: StepFacts, most: int) -> list[str]:
    """Return the prompt_ids with the smallest hashes, smallest first."""
    ids = (each for piece in pieces(step, ("prompt_id",)) for each in piece.column(0).to_pylist())
    return heapq.nsmallest(most, ids, key=_order)


def _order(prompt_id: str) -> bytes:
    return hashlib.sha256(b"wrpo-report-v1\0" + prompt_id.encode("utf-8")).digest()


def _rows(step: StepFacts, ids: Sequence[str]) -> list[dict[str, Any]]:
    """Return the rows with these ids: a piece at a time, and of each piece only what is wanted becomes Python."""
    columns = (
        "prompt_id", "messages", "source", *_ROLES, *(f"{role}_reward" for role in _ROLES),
        *(f"{role}_finish_reason" for role in _ROLES),
    )  # fmt: skip
    wanted = pa.array(ids, pa.string())
    found: list[dict[str, Any]] = []
    for piece in pieces(step, columns, _ROWS_PER_PIECE):
        kept = piece.filter(pc.call_function("is_in", [piece.column("prompt_id")], pc.SetLookupOptions(wanted)))
        found += kept.to_pylist()
    return found


def _shown(row: Mapping[str, Any]) -> Shown:
    messages = tuple((message["role"], _cut(message["content"])[0]) for message in row["messages"])
    responses = tuple(
        Response(
            label, *_cut(row[role]), row[f"{role}_reward"],
            is_unfinished=row[f"{role}_finish_reason"] == "length",
        )
        for role, label in _ROLES.items()
    )  # fmt: skip
    return Shown(row["prompt_id"], row["source"], messages, responses)


def _cut(text: str) -> tuple[str, int]:
    return text[:MOST_CHARACTERS], max(0, len(text) - MOST_CHARACTERS)
