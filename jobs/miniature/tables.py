"""The paper's tables over the miniature's runs, in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from jobs.miniature.gathered import FUSED, INTERNAL_REWARDS, SOURCE_ACCURACY, TARGET, TARGET_SFT, Gathered
from jobs.miniature.scores import Scored, by_skill, gain


@dataclass(frozen=True)
class Row:
    """A row of a table: a model of a variant, compared with another one when `over` names one."""

    label: str
    variant: str
    model: str = FUSED
    over: tuple[str, str] | None = None


@dataclass(frozen=True)
class Part:
    """A table under its heading, over the seeds that all of its variants have."""

    heading: str
    variants: tuple[str, ...]
    table: Callable[[Gathered], str]


_TABLE_2 = (
    ("target", "wrpo", TARGET),
    ("Target-SFT", "wrpo", TARGET_SFT),
    ("Target-SFT-DPO", "dpo", FUSED),
    ("**Target-SFT-WRPO**", "wrpo", FUSED),
)
_OBJECTIVES = (("dpo", "wrpo", "DPO"), ("simpo", "wrpo-simpo", "SimPO"), ("ipo", "wrpo-ipo", "IPO"))
_TABLE_3 = (
    *(
        row
        for own, weighted, name in _OBJECTIVES
        for row in (
            Row(name, own, over=(own, TARGET_SFT)),
            Row(f"WRPO_{name}", weighted, over=(own, FUSED)),
        )
    ),
    Row("y_ws alone (alpha 1)", "hybrid", over=("wrpo", FUSED)),
)
_NUMBERS = (("1", "sources-1"), ("2", "sources-2"), ("5", "sources-5"), ("10", "wrpo"))
_TABLE_4 = tuple(
    Row(number, variant, over=(_NUMBERS[position - 1][1], FUSED) if position else None)
    for position, (number, variant) in enumerate(_NUMBERS)
)
_TABLE_9_RANK = (Row("best source response", "wrpo"), Row("second best", "rank-2", over=("wrpo", FUSED)))
_TABLE_9_HALVES = (
    Row("best of all ten sources", "wrpo"),
    Row("best of the first five sources", "sources-5", over=("wrpo", FUSED)),
    Row("best of the other five", "last-5", over=("wrpo", FUSED)),
)
_TABLE_10 = (Row("WRPO", "wrpo"), Row("with y_l from sources", "source-rejected", over=("wrpo", FUSED)))
_FIGURE_5 = tuple(
    Row(f"alpha {way} {end}", variant, over=("dpo", FUSED))
    for end, static, dynamic in (
        ("0.1", "static-0.1", "dynamic-0.1"),
        ("0.5", "static-0.5", "wrpo"),
        ("0.9", "static-0.9", "dynamic-0.9"),
    )
    for way, variant in (("held at", static), ("from 0 to", dynamic))
)
# What a run trained on differs between these; the others share the quadruples of `wrpo`.
_QUADRUPLES = ("wrpo", "sources-1", "sources-2", "sources-5", "last-5", "rank-2", "source-rejected")
_WITH_REFERENCE = ("dpo", "hybrid", "wrpo", "ipo", "wrpo-ipo")


def all_tables(gathered: Gathered) -> str:
    """Return all tables under their headings; each says over which seeds it is."""
    number = [Row(f"{count}, Target-SFT", variant, TARGET_SFT) for count, variant in _NUMBERS]
    interleaved = [row for pair in zip(number, _TABLE_4, strict=True) for row in pair]
    parts = (
        Part("Table 2: skill by skill", ("wrpo", "dpo"), skill_table),
        _gains("Table 3: objectives", "objective", _TABLE_3),
        _gains("Table 4: number of sources", "sources", interleaved),
        _gains("Table 9: rank of the source response", "y_ws", _TABLE_9_RANK),
        _gains("Table 9: halves of the sources", "y_ws", _TABLE_9_HALVES),
        _gains("Table 10: rejected responses", "y_l", _TABLE_10),
        Part("Quadruples: mean rewards", _QUADRUPLES, quadruple_table),
        Part("Figure 3: internal rewards, last tenth of training", _WITH_REFERENCE, internal_table),
        _gains("Figure 5: static and dynamic alpha, over DPO", "alpha", _FIGURE_5),
    )
    return "\n".join(_text(part, gathered) for part in parts)


def _gains(heading: str, first_column: str, rows: Sequence[Row]) -> Part:
    compared = [row.over[0] for row in rows if row.over]
    variants = tuple(dict.fromkeys([*(row.variant for row in rows), *compared]))
    return Part(heading, variants, lambda gathered: gain_table(gathered, rows, first_column))


def _text(part: Part, gathered: Gathered) -> str:
    finished = {name: sorted(gathered.variants[name]) for name in gathered.finished(part.variants)}
    common = gathered.of_common_seeds(part.variants)
    if finished and not common.variants:
        found = "; ".join(f"{name}: {', '.join(map(str, seeds))}" for name, seeds in finished.items())
        return f"### {part.heading}\n\nNo seed has finished all of these runs ({found}), so nothing is compared.\n"
    seeds = f"Seeds: {', '.join(map(str, common.seeds)) or 'none'}."
    missing = [name for name in part.variants if name not in finished]
    unfinished = f" Not finished: {', '.join(missing)}." if missing else ""
    return f"### {part.heading}\n\n{seeds}{unfinished}\n\n{part.table(common)}\n"


def skill_table(gathered: Gathered) -> str:
    """Return a row per model with its mean reward on each skill, mean over the seeds: Table 2."""
    models: list[tuple[str, list[Scored]]] = [
        (source, gathered.scores_of_any("wrpo", source)) for source in gathered.sources
    ]
    models += [(label, gathered.scores(variant, model)) for label, variant, model in _TABLE_2]
    skills = list(dict.fromkeys(each.skill for each in gathered.asked.values()))
    rows = [[label, *_cells(scores, gathered, skills)] for label, scores in models if scores]
    return _markdown(["model", *skills, "all"], rows)


def _cells(scores: Sequence[Scored], gathered: Gathered, skills: Sequence[str]) -> Iterator[str]:
    of_seeds = [by_skill(scored, gathered.asked) for scored in scores]
    for skill in skills:
        yield f"{_mean(of_seed[skill] for of_seed in of_seeds):.2f}"
    yield f"{_mean(scored.mean for scored in scores):.3f}"


def quadruple_table(gathered: Gathered) -> str:
    """Return how many quadruples a run trains on and the mean rewards of their responses, mean over the seeds."""
    rows = []
    for variant in gathered.finished(_QUADRUPLES):
        of_seeds = [run.quadruples for run in gathered.of_seeds(variant)]
        columns = [[each.source_chosen, each.target_chosen, each.rejected] for each in of_seeds]
        count = f"{_mean(each.count for each in of_seeds):,.0f}"
        rows.append([variant, count, *(f"{_mean(column):.3f}" for column in zip(*columns, strict=True))])
    return _markdown(["run", "quadruples", "y_ws", "y_wt", "y_l"], rows)


def internal_table(gathered: Gathered) -> str:
    """Return the internal rewards at the end of training and how often y_ws is above y_l there, mean over the seeds."""
    rows = []
    for variant in gathered.finished(_WITH_REFERENCE):
        runs = gathered.of_seeds(variant)
        rewards = (_mean(run.at_end[metric] for run in runs) for metric, _ in INTERNAL_REWARDS)
        share = _mean(run.at_end[SOURCE_ACCURACY] for run in runs)
        rows.append([variant, *(f"{reward:+.2f}" for reward in rewards), f"{share:.2f}"])
    return _markdown(["run", "r(y_ws)", "r(y_wt)", "r(y_l)", "margin of the loss", "r(y_ws) > r(y_l)"], rows)


def gain_table(gathered: Gathered, rows: Sequence[Row], heading: str) -> str:
    """Return a row per model: mean over the seeds, and the gain over another with its interval and each seed's own."""
    finished = [
        row
        for row in rows
        if row.variant in gathered.variants and (row.over is None or row.over[0] in gathered.variants)
    ]
    return _markdown(
        [heading, "reward", "gain [95 %]", "over", "by seed"], [_gain_cells(gathered, row) for row in finished]
    )


def _gain_cells(gathered: Gathered, row: Row) -> list[str]:
    scores = gathered.scores(row.variant, row.model)
    head = [row.label, f"{_mean(scored.mean for scored in scores):.3f}"]
    if row.over is None:
        return [*head, "", "", ""]
    value, interval, own = gain(scores, gathered.scores(*row.over), gathered.asked)
    shown = f"{value:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"
    variant, model = row.over
    name = f"its {model}" if variant == row.variant else variant
    return [*head, shown, name, ", ".join(f"{each:+.3f}" for each in own)]


def _mean(values: Iterable[float]) -> float:
    given = list(values)
    return sum(given) / len(given)


def _markdown(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
