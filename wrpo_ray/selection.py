"""Scored responses of one prompt to y_ws, y_wt and y_l: pure functions, no I/O.

A response whose reward is not finite, or whose text is empty, is never chosen or rejected. Ties go by a stated rule,
so that the result depends on the set of responses only, never on their order.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from wrpo_ray.schema import ScoredResponse


class TargetPair(NamedTuple):
    """y_wt and y_l of one prompt."""

    chosen: ScoredResponse
    rejected: ScoredResponse


def is_usable(response: ScoredResponse) -> bool:
    """Tell whether a response may be chosen or rejected."""
    return math.isfinite(response.reward) and bool(response.text.strip())


def best_source(responses: Iterable[ScoredResponse], source_order: Sequence[str]) -> ScoredResponse | None:
    """Return y_ws: the highest reward over all samples of all sources, or None when no response is usable.

    Ties: the source that the config lists first, then the lowest sample_index (WRPO section 3: arg max, no tie rule).
    """
    rank = {name: number for number, name in enumerate(source_order)}
    usable = [response for response in responses if is_usable(response)]
    return min(usable, key=lambda r: (-r.reward, rank[r.source], r.sample_index), default=None)


def has_two_usable(responses: Iterable[ScoredResponse]) -> bool:
    """Tell whether there are two responses to choose between."""
    return sum(is_usable(response) for response in responses) >= 2


def target_pair(responses: Iterable[ScoredResponse]) -> TargetPair | None:
    """Return y_wt (highest reward) and y_l (lowest), or None when the usable responses do not differ in reward.

    Ties: the lowest sample_index. Two responses of one reward carry no preference, and equal texts have none to teach.
    """
    usable = [response for response in responses if is_usable(response)]
    if not usable:
        return None
    chosen = min(usable, key=lambda r: (-r.reward, r.sample_index))
    rejected = min(usable, key=lambda r: (r.reward, r.sample_index))
    if chosen.reward == rejected.reward or chosen.text == rejected.text:
        return None
    return TargetPair(chosen, rejected)


def by_prompt(responses: Iterable[ScoredResponse]) -> Mapping[str, list[ScoredResponse]]:
    """Group responses by prompt_id."""
    groups: dict[str, list[ScoredResponse]] = {}
    for response in responses:
        groups.setdefault(response.prompt_id, []).append(response)
    return groups
