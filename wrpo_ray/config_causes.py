"""What a ValidationError of a config comes to: one detail for each cause, at the path that stands in the file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import ValidationError

KeyPath = tuple[str | int, ...]
_REWARD_KINDS = ("vllm", "transformers", "verifier")
_SOURCE_KINDS = ("vllm", "openai")
# How pydantic names the members of a union in a path: literal['all'], tuple[str, ...], constrained-int.
_MEMBER = re.compile(r"(?:literal|tuple|list|dict)\[.*\]|(?:constrained-)?(?:int|float|str|bool)")


def causes(error: ValidationError) -> list[Any]:
    """Return the details of `error` (https://docs.pydantic.dev/latest/errors/) without those that follow from others.

    A list whose only item is broken is called too short as well; a value that is none of several kinds is told once
    for each kind.
    """
    details: list[Any] = list(_one_per_union(error.errors(include_url=False)))
    places = [detail["loc"] for detail in details]
    return [detail for detail in details if detail["type"] != "too_short" or not _has_inside(detail["loc"], places)]


def without_kinds(loc: KeyPath) -> KeyPath:
    """Take out the kind of reward model or source, which pydantic puts behind `reward` and the source's number."""
    if loc[:1] == ("reward",) and len(loc) > 1 and loc[1] in _REWARD_KINDS:
        return loc[:1] + loc[2:]
    return loc[:2] + loc[3:] if loc[:1] == ("sources",) and len(loc) > 2 and loc[2] in _SOURCE_KINDS else loc


def _has_inside(place: KeyPath, places: list[KeyPath]) -> bool:
    return any(len(other) > len(place) and other[: len(place)] == place for other in places)


def _one_per_union(details: Sequence[Any]) -> Iterator[Any]:
    """Yield the details; those of one value that may be of several kinds as those of the kind that it comes closest to.

    Such a value has details of at least two members, told apart by a name behind its path.
    """
    groups: dict[KeyPath, list[Any]] = {}
    for detail in details:
        groups.setdefault(_union_of(detail["loc"]), []).append(detail)
    for place, group in groups.items():
        members = {detail["loc"][len(place)] for detail in group if len(detail["loc"]) > len(place)}
        yield from _closest(place, group) if len(members) > 1 and place != () else group


def _union_of(loc: KeyPath) -> KeyPath:
    """Return the path before the first name of a member of a union, or () when there is none."""
    found = (number for number, part in enumerate(loc) if isinstance(part, str) and _MEMBER.fullmatch(part))
    return loc[: next(found, 0)]


def _closest(place: KeyPath, group: list[Any]) -> list[Any]:
    """Return the details of the member that the value is of but for a rule, or else one that names all members."""
    depth = len(place)
    of_rules = [each for each in group if len(each["loc"]) > depth + 1 or not _is_other_kind(each)]
    if of_rules:
        return [{**each, "loc": (*place, *each["loc"][depth + 1 :])} for each in of_rules]
    expected = " or ".join(each["msg"].removeprefix("Input should be ") for each in group)
    return [{**group[0], "loc": place, "type": "literal_error", "ctx": {"expected": expected}}]


def _is_other_kind(detail: Any) -> bool:
    return detail["type"] == "literal_error" or detail["type"].endswith("_type")
