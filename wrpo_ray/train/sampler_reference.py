"""Reference log-probs of y_wt and y_l from the engine that drew them, instead of a pass of our own.

Both were drawn from Target-SFT, which is the frozen reference, and vLLM tells the log-prob of every token that it draws
almost for nothing. They hold for the ids that it drew: training goes through these very ids then, since the text may
well be tokenised into others. A response that training would not see whole, or not with exactly one end token, is
computed by our own pass like y_ws. Two programs round differently, so a sample of rows is computed by both.
"""

from __future__ import annotations

import dataclasses
import heapq
import logging
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from wrpo_ray.chat import ChatTokenizer
from wrpo_ray.errors import ModelError
from wrpo_ray.schema import Quadruple, ResponseWithLogps, stable_hash
from wrpo_ray.storage.location import Location
from wrpo_ray.train.keyed_files import KeyedFiles
from wrpo_ray.train.token_file import TokenRow
from wrpo_ray.train.tokens import TokenTable

log = logging.getLogger(__name__)

SAMPLED_RESPONSES = ("target_chosen", "rejected")
CHECK_FILE = "sampler_check.json"
NUM_CHECKED_ROWS = 32
# In bf16 a response of few tokens may be off by ten times what all of them are off by together.
WORST_FACTOR = 10

Sampled = Mapping[tuple[str, str], ResponseWithLogps]
"""Drawn responses by prompt_id and by what the quadruple calls them."""


@dataclass(frozen=True)
class SamplerCounts:
    """What became of y_wt and y_l: taken as drawn, with ids that the text would not give, and left to our own pass."""

    num_from_sampler: int
    num_with_other_ids: int
    num_by_own_pass: Mapping[str, int]


@dataclass
class SamplerTally:
    """Counts y_wt and y_l that come one after the other; see SamplerCounts."""

    num_from_sampler: int = 0
    num_with_other_ids: int = 0
    by_own_pass: Counter[str] = field(default_factory=Counter)

    def counts(self) -> SamplerCounts:
        """Return the counts so far."""
        return SamplerCounts(self.num_from_sampler, self.num_with_other_ids, dict(sorted(self.by_own_pass.items())))


def log_counts(counts: SamplerCounts) -> None:
    """Log what became of y_wt and y_l."""
    log.info(
        "%d responses as they were drawn (%d with ids that their text would not give), %d by our own pass: %s",
        counts.num_from_sampler, counts.num_with_other_ids, sum(counts.num_by_own_pass.values()),
        dict(counts.num_by_own_pass),
    )  # fmt: skip


class DrawnResponses:
    """y_wt and y_l as a finished sampling step with rows of ResponseWithLogps drew them."""

    def __init__(self, drawn: Location, chat: ChatTokenizer, max_length: int) -> None:
        self._files = KeyedFiles(drawn, ResponseWithLogps)
        self._end_token_id, self._special, self._max_length = chat.end_token_id, special_ids(chat), max_length

    def usable(self, quadruples: Sequence[Quadruple], rows: Sequence[TokenRow], tally: SamplerTally) -> Sampled:
        """Return the responses whose ids and log-probs the tokenised `rows` can take; counts all in `tally`."""
        found = drawn_of(self._files.rows([row["prompt_id"] for row in rows]), quadruples)
        usable: dict[tuple[str, str], ResponseWithLogps] = {}
        for row in rows:
            for name in SAMPLED_RESPONSES:
                response = found.get((row["prompt_id"], name))
                num_prompt_tokens = len(row["prompt"])
                reason = why_own_pass(response, num_prompt_tokens, self._end_token_id, self._special, self._max_length)
                if response is None or reason is not None:
                    tally.by_own_pass[reason or ""] += 1
                    continue
                usable[row["prompt_id"], name] = response
                tally.num_from_sampler += 1
                tally.num_with_other_ids += response.token_ids != row[name]
        return usable


def drawn_of(
    drawn: Iterable[ResponseWithLogps], quadruples: Sequence[Quadruple]
) -> dict[tuple[str, str], ResponseWithLogps]:
    """Find y_wt and y_l by their text; of two draws of one text the first will do, its ids and log-prob go together."""
    wanted = {
        (row.prompt_id, getattr(row, name), getattr(row, f"{name}_finish_reason")): (row.prompt_id, name)
        for row in quadruples
        for name in SAMPLED_RESPONSES
    }
    found: dict[tuple[str, str], ResponseWithLogps] = {}
    for response in drawn:
        key = wanted.get((response.prompt_id, response.text, response.finish_reason))
        if key is not None and (key not in found or response.sample_index < found[key].sample_index):
            found[key] = response
    return found


def special_ids(chat: ChatTokenizer) -> frozenset[int]:
    """Return the ids of the tokenizer's control tokens; the unknown token may come from any text."""
    tokens, unknown = chat.tokenizer.added_tokens_decoder, chat.tokenizer.unk_token_id
    return frozenset(index for index, token in tokens.items() if token.special and index != unknown)


def why_own_pass(
    response: ResponseWithLogps | None, num_prompt_tokens: int, end_token_id: int, special: frozenset[int],
    max_length: int,
) -> str | None:  # fmt: skip
    """Return why our own pass has to compute a response, or None when the sampler's log-prob is that of training.

    Training sees a finished response with one end token, its last one, and one that was cut when it was drawn without.
    """
    if response is None:
        return "not_found"
    ids = response.token_ids
    if num_prompt_tokens + len(ids) > max_length:
        return "cut_at_max_length"
    if response.finish_reason != "length":
        if not ids or ids[-1] != end_token_id:
            return "other_end"
        ids = ids[:-1]
    if not special.isdisjoint(ids):
        return "control_tokens"
    return None if math.isfinite(response.logps) else "not_finite"


def with_sampled_ids(rows: Sequence[TokenRow], sampled: Sampled) -> list[TokenRow]:
    """Return `rows` with the ids that were drawn in place of those that the text gives."""
    return [{**row, **{name: found.token_ids for name, found in _of_row(row, sampled)}} for row in rows]


def with_sampled_logps(rows: Sequence[TokenRow], sampled: Sampled) -> list[TokenRow]:
    """Return `rows` with the sampler's log-probs of y_wt and y_l, None where our own pass has to compute them."""
    nothing = {f"{name}_logps": None for name in SAMPLED_RESPONSES}
    logps = ({f"{name}_logps": found.logps for name, found in _of_row(row, sampled)} for row in rows)
    return [{**row, **nothing, **of_row} for row, of_row in zip(rows, logps, strict=True)]


def _of_row(row: TokenRow, sampled: Sampled) -> Iterator[tuple[str, ResponseWithLogps]]:
    for name in SAMPLED_RESPONSES:
        if (found := sampled.get((row["prompt_id"], name))) is not None:
            yield name, found


@dataclass(frozen=True)
class Compared:
    """One response by both programs: summed log-probs; ours is None when it is no finite number."""

    prompt_id: str
    response: str
    num_tokens: int
    sampler: float
    own: float | None

    @property
    def error(self) -> float:
        """Nats."""
        return math.inf if self.own is None else abs(self.sampler - self.own)


def rows_to_check(table: TokenTable) -> list[int]:
    """Return the indices of the rows that both compute: chosen by a hash, of those with a log-prob of the sampler."""
    given = [table.logps[name] for name in SAMPLED_RESPONSES]
    prompt_ids = table.prompt_ids
    candidates = [index for index in range(len(prompt_ids)) if any(column[index] is not None for column in given)]
    return heapq.nsmallest(NUM_CHECKED_ROWS, candidates, key=lambda index: stable_hash("check", prompt_ids[index]))


def compare(table: TokenTable, indices: Sequence[int], own: Sequence[Mapping[str, float]]) -> list[Compared]:
    """Return both numbers of every sampled response of the rows at `indices`; `own` are ours, by name."""
    prompt_ids = table.prompt_ids
    return [
        Compared(prompt_ids[index], name, table.num_tokens[name][index], given, _finite(logps[name]))
        for index, logps in zip(indices, own, strict=True)
        for name in SAMPLED_RESPONSES
        if (given := table.logps[name][index]) is not None
    ]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def write_check(folder: Location, compared: Sequence[Compared]) -> None:
    """Keep what was compared until the step is done; `folder` is its scratch."""
    (folder / CHECK_FILE).write_json([dataclasses.asdict(each) for each in compared])


def read_check(folder: Location) -> list[Compared] | None:
    """Return what was compared, or None when nothing has been yet."""
    place = folder / CHECK_FILE
    return [Compared(**each) for each in place.read_json()] if place.exists() else None


def differences(compared: Sequence[Compared]) -> dict[str, Any]:
    """Return mean and maximum of the absolute differences, in nats for each response and token, to three digits.

    The mean per token weighs every token alike: the sum of all differences over the number of all tokens.
    """
    if not compared:
        return {"num_compared": 0}
    errors = [each.error for each in compared]
    per_token = [each.error / each.num_tokens for each in compared]
    found = {
        "mean_nats": math.fsum(errors) / len(compared),
        "max_nats": max(errors),
        "mean_nats_per_token": math.fsum(errors) / sum(each.num_tokens for each in compared),
        "max_nats_per_token": max(per_token),
    }
    return {"num_compared": len(compared), **{name: float(f"{value:.3g}") for name, value in found.items()}}


def too_far_apart(compared: Sequence[Compared], tolerance: float) -> bool:
    """Tell whether the mean per token is over `tolerance`, or that of one response over ten times as much."""
    return _exceeds(differences(compared), tolerance)


def require_accepted(check: Mapping[str, Any], tolerance: float) -> None:
    """Raise ModelError when what a finished reference step recorded is more than `tolerance` allows now."""
    if _exceeds(check, tolerance):
        raise ModelError(
            f"the reference's log-probs from the sampler differ from our own by {check['mean_nats_per_token']:g} nats"
            f" per token on the rows that were compared, at most {tolerance:g} may be (wrpo.reference_check_tolerance)",
            code="WRPO-T020",
            help="set wrpo.reference_from_sampler to false, or the tolerance to what was accepted before",
        )


def _exceeds(found: Mapping[str, Any], tolerance: float) -> bool:
    return found["num_compared"] > 0 and not (
        found["mean_nats_per_token"] <= tolerance and found["max_nats_per_token"] <= WORST_FACTOR * tolerance
    )


def require_close(compared: Sequence[Compared], tolerance: float) -> None:
    """Log how far sampler and our own pass are apart; raises ModelError when it is more than `tolerance` allows."""
    found = differences(compared)
    log.info("log-probs of the sampler against our own: %s", found)
    if not too_far_apart(compared, tolerance):
        return
    worst = max(compared, key=lambda each: each.error / each.num_tokens)
    raise ModelError(
        f"the log-probs of the engine that drew {found['num_compared']} compared responses differ from those of our own"
        f" pass by {found['mean_nats_per_token']:.2g} nats per token, at most {tolerance:g} may be"
        f" (wrpo.reference_check_tolerance); by {found['max_nats_per_token']:.2g} for {worst.response} of"
        f" {worst.prompt_id}, at most {WORST_FACTOR * tolerance:g} may be", code="WRPO-T020",
        help="set wrpo.reference_from_sampler to false; engine and training must use the same weights in about the same"
        " precision (target.engine.dtype and quantization, wrpo.precision)",
    )  # fmt: skip
