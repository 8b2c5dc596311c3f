"""Scored responses of one prompt to y_ws, y_wt and y_l: pure functions, no I/O.

Which responses may be chosen or rejected is the `rows` section's say; one whose reward is not finite never is. Ties go
by a stated rule, so that the result depends on the set of responses only, never on their order.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from wrpo_ray.config import RowsConfig
from wrpo_ray.control_text import holds_control_text
from wrpo_ray.quarantine import policy
from wrpo_ray.schema import ScoredResponse

# What can be odd about a response; its policy decides whether it may be chosen or rejected.
RESPONSE_CODES = ("response_empty", "response_special_tokens_only", "response_cut", "responses_identical")
CONTROL_TOKENS = "response_control_tokens"


class SourceChoice(NamedTuple):
    """What source responses are taken for (config section `ablation`): y_ws is that of `rank`, and y_l may be one."""

    rank: int = 1
    may_be_rejected: bool = False


THE_METHODS = SourceChoice()


class TargetPair(NamedTuple):
    """y_wt and y_l of one prompt."""

    chosen: ScoredResponse
    rejected: ScoredResponse


def response_code(response: ScoredResponse) -> str | None:
    """Return what is odd about a response, under the name of its policy in the config, or None."""
    if not math.isfinite(response.reward):
        return "reward_not_finite"
    if not response.text and response.num_tokens > 1:
        return "response_special_tokens_only"
    if not response.text.strip():
        return "response_empty"
    return "response_cut" if response.finish_reason == "length" else None


def response_codes(response: ScoredResponse) -> list[str]:
    """Return everything that is odd about a response: see response_code, and control tokens in its text."""
    code = response_code(response)
    found = [] if code is None else [code]
    return [*found, CONTROL_TOKENS] if holds_control_text([response.text]) else found


def is_usable(response: ScoredResponse, rows: RowsConfig) -> bool:
    """Tell whether a response may be chosen or rejected."""
    return all(policy(code, rows) == "keep" for code in response_codes(response))


def best_source(
    responses: Iterable[ScoredResponse], source_order: Sequence[str], rows: RowsConfig
) -> ScoredResponse | None:
    """Return y_ws: the highest reward over all samples of all sources, or None when no response is usable."""
    return next(iter(best_sources(responses, source_order, rows, 1)), None)


def best_sources(
    responses: Iterable[ScoredResponse], source_order: Sequence[str], rows: RowsConfig, count: int
) -> list[ScoredResponse]:
    """Return up to `count` source responses of different texts, the highest reward first.

    Ties: the source that the config lists first, then the lowest sample_index (WRPO section 3: arg max, no tie rule).
    """
    place = {name: number for number, name in enumerate(source_order)}
    usable = [response for response in responses if is_usable(response, rows)]
    usable.sort(key=lambda r: (-r.reward, place[r.source], r.sample_index))
    of_text: dict[str, ScoredResponse] = {}
    for response in usable:
        of_text.setdefault(response.text, response)
    return list(of_text.values())[:count]


def worst_source(
    responses: Iterable[ScoredResponse], source_order: Sequence[str], rows: RowsConfig
) -> ScoredResponse | None:
    """Return the usable source response of the lowest reward, or None; ties as in best_sources."""
    place = {name: number for number, name in enumerate(source_order)}
    usable = [response for response in responses if is_usable(response, rows)]
    return min(usable, key=lambda r: (r.reward, place[r.source], r.sample_index), default=None)


def with_worse_rejected(pair: TargetPair, chosen: ScoredResponse, worst: ScoredResponse) -> TargetPair:
    """Return the pair with the worst source response as y_l where that is worse than the target's own.

    Never one whose text is chosen, as y_ws (`chosen`) or y_wt: it cannot be rejected at once.
    """
    if worst.reward >= pair.rejected.reward or worst.text in (chosen.text, pair.chosen.text):
        return pair
    return TargetPair(pair.chosen, worst)


def has_two_usable(responses: Iterable[ScoredResponse], rows: RowsConfig) -> bool:
    """Tell whether there are two responses to choose between."""
    return sum(is_usable(response, rows) for response in responses) >= 2


def target_pair(responses: Iterable[ScoredResponse], rows: RowsConfig) -> TargetPair | None:
    """Return y_wt (highest reward) and y_l (lowest), or None when the usable responses do not differ in reward.

    Ties: the lowest sample_index. Two responses of one reward carry no preference, and equal texts have none to teach.
    """
    usable = [response for response in responses if is_usable(response, rows)]
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
