"""Runs side by side as a page: curves and win shares over one another, then the same tables as on the terminal."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from wrpo_ray import __version__
from wrpo_ray.report.colours import NUM_COLOURS
from wrpo_ray.report.contribution import win_shares
from wrpo_ray.report.folder import RunFacts
from wrpo_ray.report.html import rendered
from wrpo_ray.report.parts import Chart, Section, Table, percent
from wrpo_ray.report.side_by_side import Block
from wrpo_ray.report.training import Wanted, lines_chart, points_of

_CURVES = (
    ("rewards/margins", "Reward margin", "margin", False, True),
    ("rewards/accuracies", "Reward accuracy", "share of pairs", True, False),
    ("alpha", "Alpha", "alpha", False, True),
    ("loss", "Loss of preference training", "loss", False, False),
)


def compare_page(names: Sequence[str], runs: Sequence[RunFacts], found: Sequence[Block]) -> str:
    """Return the page; `names` are what the runs are called, `found` the blocks of side_by_side."""
    curves = tuple(chart for curve in _CURVES if (chart := _curve(names, runs, *curve)) is not None)
    shares = _shares(names, runs)
    tables = tuple(_table(names, block) for block in found if block.rows)
    missing = tuple(f"{block.title.capitalize()}: {block.empty}." for block in found if not block.rows)
    sections = [
        Section("curves", "Curves", "Curves", "", (*((shares,) if shares else ()), *curves)),
        Section("tables", "Tables", "Side by side", tables=tables, missing=missing),
    ]
    values = {
        "names": list(names),
        "folders": [str(run.folder) for run in runs],
        "sections": [section for section in sections if section.charts or section.tables],
        "version": __version__,
        "made_at": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
    charts = [chart for section in sections for chart in section.charts]
    return rendered("compare.html.j2", "wrpo_ray: runs side by side", charts, values)


def _curve(
    names: Sequence[str], runs: Sequence[RunFacts], metric: str, title: str, y: str, is_share: bool, zero: bool
) -> Chart | None:
    series = {
        name: points for name, run in zip(names, runs, strict=True)
        if (points := points_of(run.metrics.get("wrpo", []), metric))
    }  # fmt: skip
    if not series:
        return None
    colours = {name: number % NUM_COLOURS for number, name in enumerate(names)}
    words = "Each run over its own optimizer steps of preference training."
    wanted = Wanted(metric.replace("/", "-"), "wrpo", title, y, words, (), is_share, zero)
    return lines_chart(wanted, series, colours)


def _shares(names: Sequence[str], runs: Sequence[RunFacts]) -> Chart | None:
    sources = dict.fromkeys(source for run in runs for source in win_shares(run))
    if not sources:
        return None
    rows = [
        {"label": source, "series": name, "value": win_shares(run).get(source, 0.0), "colour": number % NUM_COLOURS}
        for source in sources
        for number, (name, run) in enumerate(zip(names, runs, strict=True))
        if win_shares(run)
    ]
    cells = tuple((source, *(percent(win_shares(run).get(source)) for run in runs)) for source in sources)
    data = {"rows": rows, "x": "share of quadruples", "percent": True}
    words = "Share of quadruples whose best source response each source gave."
    return Chart("win-shares", "Win share by source", words, "bars", data, Table(("source", *names), cells))


def _table(names: Sequence[str], block: Block) -> Table:
    rows = tuple((name, *cells) for name, cells in block.rows)
    return Table(("what", *names), rows, block.title.capitalize())
