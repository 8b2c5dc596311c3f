"""The join of one range of prompts: its prompts with the scored responses of all models, file by file.

Winners alone stay in memory. A prompt's responses may lie in several files of a source; those of the target lie in one,
since one shard draws all of them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from wrpo_ray.config import RowsConfig
from wrpo_ray.data.parts import Part, PartDone
from wrpo_ray.data.ranges import FilesOf
from wrpo_ray.quarantine import policy
from wrpo_ray.schema import Prompt, Quadruple, ScoredResponse, SFTExample, Split, to_rows
from wrpo_ray.selection import (
    THE_METHODS,
    SourceChoice,
    TargetPair,
    best_sources,
    by_prompt,
    has_two_usable,
    response_codes,
    target_pair,
    with_worse_rejected,
    worst_source,
)
from wrpo_ray.storage.ledger import QuarantinedRow, quarantine_lines
from wrpo_ray.storage.location import Location
from wrpo_ray.storage.tables import write_file, write_rows

# Outcomes of a prompt that are a result; every other one is why there is none.
_RESULTS = ("example", "quadruple")
# Of each code; a message shows no more rows than that.
_MAX_NAMED = 10


@dataclass(frozen=True)
class Join:
    """What one part is joined from: prompts of a range, and the files that can hold responses to them.

    choice: what source responses are taken for.
    """

    part: Part
    split: Split
    prompts: FilesOf
    sources: tuple[FilesOf, ...]
    target: FilesOf
    source_order: tuple[str, ...]
    rows: RowsConfig
    folder: Location
    choice: SourceChoice = THE_METHODS


@dataclass
class Findings:
    """What was odd about the responses that were looked at: counts by code, and the rows that are left out for it."""

    rows: RowsConfig
    num_responses: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    first_items: dict[str, list[str]] = field(default_factory=dict)
    left_out: list[QuarantinedRow] = field(default_factory=list)

    def look_at(self, responses: Iterable[ScoredResponse]) -> None:
        """Note the code of every response that has one."""
        for response in responses:
            self.num_responses += 1
            for code in response_codes(response):
                self.note(f"{response.prompt_id}:{response.source}:{response.sample_index}", code)
                if policy(code, self.rows) != "keep":
                    # Left out for one reason, and counted for that.
                    break

    def note(self, item: str, code: str) -> None:
        """Note one row with `code`."""
        self.codes[code] += 1
        if self.codes[code] <= _MAX_NAMED:
            self.first_items.setdefault(code, []).append(item)
        if policy(code, self.rows) != "keep":
            self.left_out.append(QuarantinedRow(item, code, 0, ""))


def select_part(join: Join) -> PartDone:
    """Write the SFT examples of one range of prompts."""
    selected, findings = _selected(join), Findings(join.rows)
    best = best_responses(join, [prompt.prompt_id for prompt in selected], findings)
    examples = [
        SFTExample(prompt.prompt_id, prompt.messages, chosen.text, chosen.source, chosen.reward, chosen.finish_reason)
        for prompt in selected
        if (chosen := best.get(prompt.prompt_id)) is not None
    ]
    outcomes = {
        prompt.prompt_id: "example" if prompt.prompt_id in best else "no_source_response" for prompt in selected
    }
    return _written(join, examples, SFTExample, outcomes, findings)


def fuse_part(join: Join) -> PartDone:
    """Write the quadruples of one range of prompts."""
    selected, findings = _selected(join), Findings(join.rows)
    ids = [prompt.prompt_id for prompt in selected]
    best = best_responses(join, ids, findings)
    pairs = _target_pairs(join.target, ids, findings)
    if join.choice.may_be_rejected:
        pairs = _with_source_rejected(join, pairs, best)
    outcomes = {prompt_id: _outcome(prompt_id, best, pairs) for prompt_id in ids}
    quadruples = [
        _quadruple(prompt, best[prompt.prompt_id], pair)
        for prompt in selected
        if outcomes[prompt.prompt_id] == "quadruple" and (pair := pairs[prompt.prompt_id]) is not None
    ]
    return _written(join, quadruples, Quadruple, outcomes, findings)


def best_responses(join: Join, wanted: Sequence[str], findings: Findings) -> dict[str, ScoredResponse]:
    """Return y_ws of every prompt in `wanted` that has a usable source response of its rank, over all sources."""
    held: defaultdict[str, list[ScoredResponse]] = defaultdict(list)
    texts: dict[str, str | None] = {}
    counts: Counter[str] = Counter()
    for rows in _responses(join.sources, wanted):
        findings.look_at(rows)
        for prompt_id, responses in by_prompt(rows).items():
            known = [*held[prompt_id], *responses]
            held[prompt_id] = best_sources(known, join.source_order, findings.rows, join.choice.rank)
            counts[prompt_id] += len(responses)
            text = texts.setdefault(prompt_id, responses[0].text)
            if any(response.text != text for response in responses):
                texts[prompt_id] = None
    identical = {prompt_id for prompt_id, text in texts.items() if text is not None and counts[prompt_id] > 1}
    for prompt_id in sorted(identical):
        findings.note(prompt_id, "responses_identical")
    left_out = identical if policy("responses_identical", findings.rows) != "keep" else set()
    return {
        prompt_id: ranked[join.choice.rank - 1]
        for prompt_id, ranked in held.items()
        if len(ranked) >= join.choice.rank and prompt_id not in left_out
    }


def _target_pairs(scored: FilesOf, wanted: Sequence[str], findings: Findings) -> dict[str, TargetPair | None]:
    pairs: dict[str, TargetPair | None] = {}
    for rows in _responses([scored], wanted):
        findings.look_at(rows)
        for prompt_id, responses in by_prompt(rows).items():
            if has_two_usable(responses, findings.rows):
                pairs[prompt_id] = target_pair(responses, findings.rows)
    return pairs


def _with_source_rejected(
    join: Join, pairs: Mapping[str, TargetPair | None], best: Mapping[str, ScoredResponse]
) -> dict[str, TargetPair | None]:
    """Return the pairs with y_l from the sources where the worst of theirs is worse than the target's."""
    worst: dict[str, ScoredResponse] = {}
    for rows in _responses(join.sources, list(best)):
        for prompt_id, responses in by_prompt(rows).items():
            held = [worst[prompt_id]] if prompt_id in worst else []
            if (found := worst_source([*held, *responses], join.source_order, join.rows)) is not None:
                worst[prompt_id] = found
    return {
        prompt_id: with_worse_rejected(pair, best[prompt_id], worst[prompt_id])
        if pair is not None and prompt_id in worst
        else pair
        for prompt_id, pair in pairs.items()
    }


def _responses(scored: Iterable[FilesOf], wanted: Sequence[str]) -> Iterable[list[ScoredResponse]]:
    """Yield the responses to the prompts in `wanted`, file by file."""
    ids = pa.array(wanted, type=pa.string())
    for files in scored:
        for table in files.tables(ScoredResponse.SCHEMA):
            wanted_rows = pc.call_function("is_in", [table["prompt_id"]], pc.SetLookupOptions(ids))
            yield to_rows(table.filter(wanted_rows), ScoredResponse)


def _selected(join: Join) -> list[Prompt]:
    tables = join.prompts.tables(Prompt.SCHEMA)
    return [row for table in tables for row in to_rows(table, Prompt) if row.split == join.split]


def _written(
    join: Join, rows: Sequence[Any], row_type: type[Any], outcomes: Mapping[str, str], findings: Findings
) -> PartDone:
    """Write a part's rows, and below its scratch folder those that are left out.

    A part without rows is no file: `datasets.load_dataset` stumbles over an empty one.
    """
    left_out: defaultdict[str, list[QuarantinedRow]] = defaultdict(list)
    for row in findings.left_out:
        left_out[row.code].append(row)
    for prompt_id, outcome in outcomes.items():
        if outcome not in _RESULTS:
            left_out[outcome].append(QuarantinedRow(prompt_id, outcome, 0, ""))
    lists = {code: f"{join.part.scratch}/{code}.jsonl" for code in sorted(left_out)}
    for code, path in lists.items():
        write_file(join.folder, path, quarantine_lines(left_out[code]))
    return PartDone(
        files=(write_rows(join.folder, join.part.path, rows, row_type),) if rows else (),
        counts={
            "outcomes": dict(Counter(outcomes.values())),
            "winners": dict(Counter(row.source for row in rows)),
            "codes": dict(findings.codes),
            "looked_at": {"num_responses": findings.num_responses},
        },
        lists={f"quarantine/{code}.jsonl": path for code, path in lists.items()},
        first_items=findings.first_items,
    )


def _outcome(prompt_id: str, best: Mapping[str, ScoredResponse], pairs: Mapping[str, TargetPair | None]) -> str:
    if prompt_id not in best:
        return "no_source_response"
    if prompt_id not in pairs:
        return "fewer_than_two_target_responses"
    pair = pairs[prompt_id]
    if pair is None:
        return "target_responses_tie"
    # One text cannot be chosen and rejected at once.
    return "source_response_is_rejected" if pair.rejected.text == best[prompt_id].text else "quadruple"


def _quadruple(prompt: Prompt, source: ScoredResponse, pair: TargetPair) -> Quadruple:
    return Quadruple(
        prompt_id=prompt.prompt_id,
        messages=prompt.messages,
        source_chosen=source.text,
        target_chosen=pair.chosen.text,
        rejected=pair.rejected.text,
        source=source.source,
        source_chosen_reward=source.reward,
        target_chosen_reward=pair.chosen.reward,
        rejected_reward=pair.rejected.reward,
        source_chosen_finish_reason=source.finish_reason,
        target_chosen_finish_reason=pair.chosen.finish_reason,
        rejected_finish_reason=pair.rejected.finish_reason,
    )
