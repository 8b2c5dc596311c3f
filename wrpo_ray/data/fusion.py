"""Scored responses to SFT examples and quadruples. Files are read one at a time; only winners stay in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wrpo_ray.errors import DataError
from wrpo_ray.schema import Prompt, Quadruple, ScoredResponse, SFTExample
from wrpo_ray.selection import TargetPair, best_source, by_prompt, has_two_usable, target_pair
from wrpo_ray.storage import iter_rows, read_rows, write_rows

ROWS_PER_FILE = 50_000


def best_responses(scored: Iterable[Path], source_order: Sequence[str], wanted: set[str]) -> dict[str, ScoredResponse]:
    """Return y_ws of every prompt in `wanted` that has a usable source response, over all steps in `scored`."""
    best: dict[str, ScoredResponse] = {}
    for folder in scored:
        for rows in iter_rows(folder, ScoredResponse):
            for prompt_id, responses in by_prompt(row for row in rows if row.prompt_id in wanted).items():
                held = [best[prompt_id]] if prompt_id in best else []
                winner = best_source([*held, *responses], source_order)
                if winner is not None:
                    best[prompt_id] = winner
    return best


def select_sft(prompts: Path, scored: Sequence[Path], source_order: Sequence[str], folder: Path) -> Mapping[str, Any]:
    """Write one SFTExample per prompt of the SFT split and return the counts."""
    selected = [prompt for prompt in read_rows(prompts, Prompt) if prompt.split == "sft"]
    best = best_responses(scored, source_order, {prompt.prompt_id for prompt in selected})
    examples = [
        SFTExample(prompt.prompt_id, prompt.messages, chosen.text, chosen.source, chosen.reward, chosen.finish_reason)
        for prompt in selected
        if (chosen := best.get(prompt.prompt_id)) is not None
    ]
    if not examples:
        raise DataError(f"none of the {len(selected)} prompts of the SFT split has a usable source response")
    _write_parts(folder, examples, SFTExample)
    return {
        "num_prompts": len(selected),
        "num_examples": len(examples),
        "num_without_source_response": len(selected) - len(examples),
        "best_share": best_share((example.source for example in examples), source_order),
    }


def fuse(
    prompts: Path, source_scored: Sequence[Path], target_scored: Path, source_order: Sequence[str], folder: Path
) -> Mapping[str, Any]:
    """Write one Quadruple per prompt of the preference split that has all of y_ws, y_wt and y_l; return the counts."""
    selected = [prompt for prompt in read_rows(prompts, Prompt) if prompt.split == "preference"]
    best = best_responses(source_scored, source_order, {prompt.prompt_id for prompt in selected})
    pairs: dict[str, TargetPair | None] = {}
    for rows in iter_rows(target_scored, ScoredResponse):
        groups = by_prompt(rows).items()
        pairs.update(
            {prompt_id: target_pair(responses) for prompt_id, responses in groups if has_two_usable(responses)}
        )
    outcomes = {prompt.prompt_id: _outcome(prompt.prompt_id, best, pairs) for prompt in selected}
    quadruples = [
        _quadruple(prompt, best[prompt.prompt_id], pair)
        for prompt in selected
        if outcomes[prompt.prompt_id] == "quadruple" and (pair := pairs[prompt.prompt_id]) is not None
    ]
    counts = Counter(outcomes.values())
    if not quadruples:
        raise DataError(f"none of the {len(selected)} prompts gives a quadruple: {dict(counts)}")
    _write_parts(folder, quadruples, Quadruple)
    return {
        "num_prompts": len(selected),
        "num_quadruples": len(quadruples),
        "num_without_source_response": counts["no_source_response"],
        "num_fewer_than_two_target_responses": counts["fewer_than_two_target_responses"],
        "num_target_responses_tie": counts["target_responses_tie"],
        "best_share": best_share((quadruple.source for quadruple in quadruples), source_order),
    }


def best_share(winners: Iterable[str], source_order: Sequence[str]) -> dict[str, float]:
    """Return for each source the share of prompts on which it gave the best response (paper: Table 1)."""
    counts = Counter(winners)
    total = max(1, counts.total())
    return {source: round(counts[source] / total, 4) for source in source_order}


def _outcome(prompt_id: str, best: Mapping[str, ScoredResponse], pairs: Mapping[str, TargetPair | None]) -> str:
    if prompt_id not in best:
        return "no_source_response"
    if prompt_id not in pairs:
        return "fewer_than_two_target_responses"
    return "target_responses_tie" if pairs[prompt_id] is None else "quadruple"


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


def _write_parts(folder: Path, rows: Sequence[Any], row_type: type[Any]) -> None:
    """Write `data/train-00000-of-0000N.parquet`, the names that datasets.load_dataset finds by itself."""
    parts = [rows[start : start + ROWS_PER_FILE] for start in range(0, len(rows), ROWS_PER_FILE)]
    for number, part in enumerate(parts):
        write_rows(folder / "data" / f"train-{number:05d}-of-{len(parts):05d}.parquet", part, row_type)
