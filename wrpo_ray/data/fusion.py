"""Scored responses to SFT examples and quadruples. Files are read one at a time; only winners stay in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from wrpo_ray.config import RowsConfig
from wrpo_ray.errors import DataError
from wrpo_ray.quarantine import policy, require_within_budget
from wrpo_ray.schema import Prompt, Quadruple, ScoredResponse, SFTExample
from wrpo_ray.selection import TargetPair, best_source, by_prompt, has_two_usable, response_code, target_pair
from wrpo_ray.steps import StepResult
from wrpo_ray.storage.ledger import QuarantinedRow, write_quarantine
from wrpo_ray.storage.location import Location
from wrpo_ray.storage.manifest import FileEntry
from wrpo_ray.storage.tables import iter_rows, read_rows, write_rows

ROWS_PER_FILE = 50_000


@dataclass
class Findings:
    """What was odd about the responses that were looked at: counts by code, and the rows that are left out for it."""

    rows: RowsConfig
    num_responses: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    left_out: list[QuarantinedRow] = field(default_factory=list)

    def look_at(self, responses: Iterable[ScoredResponse]) -> None:
        """Note the code of every response that has one."""
        for response in responses:
            self.num_responses += 1
            if (code := response_code(response)) is not None:
                self.note(f"{response.prompt_id}:{response.source}:{response.sample_index}", code)

    def note(self, item: str, code: str) -> None:
        """Note one row with `code`."""
        self.codes[code] += 1
        if policy(code, self.rows) != "keep":
            self.left_out.append(QuarantinedRow(item, code, 0, ""))


def best_responses(
    scored: Iterable[Location], source_order: Sequence[str], wanted: set[str], findings: Findings
) -> dict[str, ScoredResponse]:
    """Return y_ws of every prompt in `wanted` that has a usable source response, over all steps in `scored`."""
    best: dict[str, ScoredResponse] = {}
    texts: dict[str, str | None] = {}
    counts: Counter[str] = Counter()
    for folder in scored:
        for file_rows in iter_rows(folder, ScoredResponse):
            kept = [row for row in file_rows if row.prompt_id in wanted]
            findings.look_at(kept)
            for prompt_id, responses in by_prompt(kept).items():
                held = [best[prompt_id]] if prompt_id in best else []
                winner = best_source([*held, *responses], source_order, findings.rows)
                if winner is not None:
                    best[prompt_id] = winner
                counts[prompt_id] += len(responses)
                text = texts.setdefault(prompt_id, responses[0].text)
                if any(response.text != text for response in responses):
                    texts[prompt_id] = None
    identical = {prompt_id for prompt_id, text in texts.items() if text is not None and counts[prompt_id] > 1}
    for prompt_id in sorted(identical):
        findings.note(prompt_id, "responses_identical")
    if policy("responses_identical", findings.rows) != "keep":
        best = {prompt_id: winner for prompt_id, winner in best.items() if prompt_id not in identical}
    return best


def select_sft(
    prompts: Location, scored: Sequence[Location], source_order: Sequence[str], rows: RowsConfig, folder: Location
) -> StepResult:
    """Write one SFTExample per prompt of the SFT split and return the counts."""
    selected = [prompt for prompt in read_rows(prompts, Prompt) if prompt.split == "sft"]
    findings = Findings(rows)
    best = best_responses(scored, source_order, {prompt.prompt_id for prompt in selected}, findings)
    examples = [
        SFTExample(prompt.prompt_id, prompt.messages, chosen.text, chosen.source, chosen.reward, chosen.finish_reason)
        for prompt in selected
        if (chosen := best.get(prompt.prompt_id)) is not None
    ]
    without = [prompt.prompt_id for prompt in selected if prompt.prompt_id not in best]
    findings.left_out += [QuarantinedRow(prompt_id, "no_source_response", 0, "") for prompt_id in without]
    files = _close(folder, "select_sft", findings)
    if not examples:
        raise DataError(
            f"none of the {len(selected)} prompts of the SFT split has a usable source response"
            f" ({_told(findings.codes)})", code="WRPO-D030", help="see the counts of the steps score-*",
        )  # fmt: skip
    summary = {
        "num_prompts": len(selected),
        "num_examples": len(examples),
        "num_without_source_response": len(without),
        "best_share": best_share((example.source for example in examples), source_order),
        "rows": dict(sorted(findings.codes.items())),
    }
    return StepResult((*_write_parts(folder, examples, SFTExample), *files), summary)


def fuse(
    prompts: Location,
    source_scored: Sequence[Location],
    target_scored: Location,
    source_order: Sequence[str],
    rows: RowsConfig,
    folder: Location,
) -> StepResult:
    """Write one Quadruple per prompt of the preference split that has all of y_ws, y_wt and y_l; return the counts."""
    selected = [prompt for prompt in read_rows(prompts, Prompt) if prompt.split == "preference"]
    findings = Findings(rows)
    best = best_responses(source_scored, source_order, {prompt.prompt_id for prompt in selected}, findings)
    pairs = _target_pairs(target_scored, findings)
    outcomes = {prompt.prompt_id: _outcome(prompt.prompt_id, best, pairs) for prompt in selected}
    quadruples = [
        _quadruple(prompt, best[prompt.prompt_id], pair)
        for prompt in selected
        if outcomes[prompt.prompt_id] == "quadruple" and (pair := pairs[prompt.prompt_id]) is not None
    ]
    counts = Counter(outcomes.values())
    findings.left_out += [
        QuarantinedRow(prompt_id, outcome, 0, "") for prompt_id, outcome in outcomes.items() if outcome != "quadruple"
    ]
    files = _close(folder, "fuse", findings)
    if not quadruples:
        raise DataError(
            f"none of the {len(selected)} prompts gives a quadruple: {_told(counts)}", code="WRPO-D031",
            help="see the counts of the steps score-*; more samples per prompt give more different rewards",
        )  # fmt: skip
    summary = {
        "num_prompts": len(selected),
        "num_quadruples": len(quadruples),
        "num_without_source_response": counts["no_source_response"],
        "num_fewer_than_two_target_responses": counts["fewer_than_two_target_responses"],
        "num_target_responses_tie": counts["target_responses_tie"],
        "num_source_response_is_rejected": counts["source_response_is_rejected"],
        "best_share": best_share((quadruple.source for quadruple in quadruples), source_order),
        "rows": dict(sorted(findings.codes.items())),
    }
    return StepResult((*_write_parts(folder, quadruples, Quadruple), *files), summary)


def best_share(winners: Iterable[str], source_order: Sequence[str]) -> dict[str, float]:
    """Return for each source the share of prompts on which it gave the best response (paper: Table 1)."""
    counts = Counter(winners)
    total = max(1, counts.total())
    return {source: round(counts[source] / total, 4) for source in source_order}


def _target_pairs(scored: Location, findings: Findings) -> dict[str, TargetPair | None]:
    pairs: dict[str, TargetPair | None] = {}
    for file_rows in iter_rows(scored, ScoredResponse):
        findings.look_at(file_rows)
        for prompt_id, responses in by_prompt(file_rows).items():
            if has_two_usable(responses, findings.rows):
                pairs[prompt_id] = target_pair(responses, findings.rows)
    return pairs


# Prompts that end without a result for reasons that have a count of their own; they are listed, not budgeted.
_PROMPT_OUTCOMES = {
    "no_source_response", "fewer_than_two_target_responses", "target_responses_tie", "source_response_is_rejected",
}  # fmt: skip


def _close(folder: Location, title: str, findings: Findings) -> list[FileEntry]:
    """Write what was left out, and stop when the budget does not allow it."""
    files = write_quarantine(folder, findings.left_out)
    of_responses = [(row.item, row.code) for row in findings.left_out if row.code not in _PROMPT_OUTCOMES]
    require_within_budget(title, findings.num_responses, of_responses, findings.rows)
    return files


def _told(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "nothing odd"


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


def _write_parts(folder: Location, rows: Sequence[Any], row_type: type[Any]) -> list[FileEntry]:
    """Write `data/train-00000-of-0000N.parquet`, the names that datasets.load_dataset finds by itself."""
    parts = [rows[start : start + ROWS_PER_FILE] for start in range(0, len(rows), ROWS_PER_FILE)]
    return [
        write_rows(folder, f"data/train-{number:05d}-of-{len(parts):05d}.parquet", part, row_type)
        for number, part in enumerate(parts)
    ]
