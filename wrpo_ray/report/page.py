"""The page of one run: pictures first, then tables, quadruples to browse, and the config."""

from __future__ import annotations

import datetime
from collections.abc import Callable

import yaml

from wrpo_ray import __version__
from wrpo_ray.report.contribution import contribution
from wrpo_ray.report.costs import costs
from wrpo_ray.report.drops import drops
from wrpo_ray.report.evaluation import evaluation
from wrpo_ray.report.folder import RunFacts
from wrpo_ray.report.html import rendered
from wrpo_ray.report.lengths import lengths
from wrpo_ray.report.overview import cards, standing, standing_words, steps_section
from wrpo_ray.report.parts import Section, Table
from wrpo_ray.report.quadruples import sample_of
from wrpo_ray.report.training import training

QUADRUPLES = 100
SECTIONS: tuple[Callable[[RunFacts], Section], ...] = (
    contribution, evaluation, training, lengths, costs, drops, steps_section,
)  # fmt: skip


def report_page(facts: RunFacts, most_quadruples: int = QUADRUPLES) -> str:
    """Return the report of a run as one HTML page; raises StorageError when a file of the run cannot be read."""
    sections = [make(facts) for make in SECTIONS]
    quadruples = sample_of(facts, most_quadruples)
    in_all = sum(entry.num_rows or 0 for entry in facts.steps["fuse"].data) if "fuse" in facts.steps else 0
    values = {
        "facts": facts,
        "standing": standing(facts),
        "standing_words": standing_words(facts),
        "cards": list(cards(facts)),
        "sections": sections,
        "quadruples": quadruples,
        "num_quadruples": f"{in_all:,}",
        "quadruple_sources": [name for name in facts.sources if any(each.source == name for each in quadruples)],
        "no_quadruples": _no_quadruples(facts, in_all),
        "config": yaml.safe_dump(dict(facts.config), sort_keys=False, allow_unicode=True) if facts.config else "",
        "versions": _versions(facts),
        "version": __version__,
        "made_at": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
    charts = [chart for section in sections for chart in section.charts]
    return rendered("report.html.j2", f"{facts.name}: wrpo_ray report", charts, values)


def _no_quadruples(facts: RunFacts, in_all: int) -> str:
    return "Quadruples: none were asked for." if in_all else f"Quadruples: {facts.whyless('fuse')}."


def _versions(facts: RunFacts) -> Table | None:
    rows = tuple(sorted((name, str(version)) for name, version in facts.record.get("versions", {}).items()))
    return Table(("package", "version"), rows, "Versions") if rows else None
