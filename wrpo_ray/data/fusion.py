"""Scored responses to SFT examples and quadruples, by ranges of prompts; the driver sees counts and names of files."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

from wrpo_ray.config import FaultsConfig, RowsConfig
from wrpo_ray.data.joins import Join, fuse_part, select_part
from wrpo_ray.data.parts import Part, PartDone, all_parts, merged_lists, remove_strangers, total
from wrpo_ray.data.ranges import FilesByRange, FilesOf, content_of, files_of, grouped
from wrpo_ray.errors import DataError
from wrpo_ray.quarantine import Account, policy, require_within_budget
from wrpo_ray.schema import Split
from wrpo_ray.selection import THE_METHODS, SourceChoice
from wrpo_ray.steps import StepResult
from wrpo_ray.storage.location import Location
from wrpo_ray.storage.manifest import FileEntry

# Two files of prompts (prompt_layout.ROWS_PER_FILE).
PROMPTS_PER_PART = 16_384


def select_sft(
    prompts: Location,
    scored: Sequence[Location],
    source_order: Sequence[str],
    rows: RowsConfig,
    folder: Location,
    faults: FaultsConfig | None = None,
    choice: SourceChoice = THE_METHODS,
) -> StepResult:
    """Write one SFTExample per prompt of the SFT split and return the counts; choice: see Join."""
    joins = _joins("sft", prompts, scored, None, source_order, rows, folder, choice)
    done = _made(joins, select_part, folder, faults)
    files = _files(folder, "select_sft", done, rows)
    outcomes, codes = total(done, "outcomes"), total(done, "codes")
    if not outcomes["example"]:
        raise DataError(
            f"none of the {outcomes.total()} prompts of the SFT split has a usable source response"
            f" ({_told(codes)})", code="WRPO-D030", help="see the counts of the steps score-*",
        )  # fmt: skip
    summary = {
        "num_prompts": outcomes.total(),
        "num_examples": outcomes["example"],
        "num_without_source_response": outcomes["no_source_response"],
        "best_share": best_share(total(done, "winners"), source_order),
        "rows": dict(sorted(codes.items())),
    }
    return StepResult(files, summary)


def fuse(
    prompts: Location,
    source_scored: Sequence[Location],
    target_scored: Location,
    source_order: Sequence[str],
    rows: RowsConfig,
    folder: Location,
    faults: FaultsConfig | None = None,
    choice: SourceChoice = THE_METHODS,
) -> StepResult:
    """Write one Quadruple per prompt of the preference split that has all of y_ws, y_wt and y_l; return the counts.

    choice: see Join.
    """
    joins = _joins("preference", prompts, source_scored, target_scored, source_order, rows, folder, choice)
    done = _made(joins, fuse_part, folder, faults)
    files = _files(folder, "fuse", done, rows)
    outcomes = total(done, "outcomes")
    if not outcomes["quadruple"]:
        raise DataError(
            f"none of the {outcomes.total()} prompts gives a quadruple: {_told(outcomes)}", code="WRPO-D031",
            help="see the counts of the steps score-*; more samples per prompt give more different rewards",
        )  # fmt: skip
    summary = {
        "num_prompts": outcomes.total(),
        "num_quadruples": outcomes["quadruple"],
        "num_without_source_response": outcomes["no_source_response"],
        "num_fewer_than_two_target_responses": outcomes["fewer_than_two_target_responses"],
        "num_target_responses_tie": outcomes["target_responses_tie"],
        "num_source_response_is_rejected": outcomes["source_response_is_rejected"],
        "best_share": best_share(total(done, "winners"), source_order),
        "rows": dict(sorted(total(done, "codes").items())),
    }
    return StepResult(files, summary)


def best_share(winners: Mapping[str, int], source_order: Sequence[str]) -> dict[str, float]:
    """Return for each source the share of prompts on which it gave the best response (paper: Table 1)."""
    num_prompts = max(1, sum(winners.values()))
    return {source: round(winners.get(source, 0) / num_prompts, 4) for source in source_order}


def _joins(
    split: Split, prompts: Location, scored: Sequence[Location], target_scored: Location | None,
    source_order: Sequence[str], rows: RowsConfig, folder: Location, choice: SourceChoice,
) -> list[Join]:  # fmt: skip
    """Return one join per range of prompts: of all other steps only the files that can match."""
    ranges = grouped(files_of(prompts), PROMPTS_PER_PART)
    target = FilesOf(prompts, ()) if target_scored is None else files_of(target_scored)
    steps = [FilesByRange(files) for files in (*map(files_of, scored), target)]
    joins = []
    for number, of_range in enumerate(ranges):
        read = [files.that_may_hold(of_range.key_range) for files in steps]
        part = Part(number, len(ranges), content_of([of_range, *read]), of_range.num_rows)
        order, target_files = tuple(source_order), read[-1]
        joins.append(Join(part, split, of_range, tuple(read[:-1]), target_files, order, rows, folder, choice))
    return joins


def _made(
    joins: Sequence[Join], make: Callable[[Join], PartDone], folder: Location, faults: FaultsConfig | None
) -> list[PartDone]:
    no_progress_timeout_s = (faults or FaultsConfig()).no_progress_timeout_s
    return all_parts(folder, [join.part for join in joins], make, joins, no_progress_timeout_s)


def _files(folder: Location, title: str, done: Sequence[PartDone], rows: RowsConfig) -> tuple[FileEntry, ...]:
    """Return the step's files, once what was left out is written and within the budget.

    Prompts that end without a result for reasons that have a count of their own are listed, not budgeted.
    """
    lists = merged_lists(folder, done)
    account = Account(rows)
    for part in done:
        counted = [items for code, items in part.first_items.items() if policy(code, rows) == "quarantine"]
        account.merge(part.counts["codes"], itertools.chain.from_iterable(counted))
    require_within_budget(title, total(done, "looked_at")["num_responses"], account)
    files = (*(entry for part in done for entry in part.files), *lists)
    remove_strangers(folder, files)
    return files


def _told(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "nothing odd"
