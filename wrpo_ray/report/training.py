"""What training did: alpha, internal rewards and margins, accuracy, loss and gradient norm over the optimizer steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wrpo_ray.report.colours import REJECTED, SOURCE_CHOSEN, TARGET_CHOSEN
from wrpo_ray.report.folder import RunFacts
from wrpo_ray.report.parts import MOST_POINTS, Chart, Section, Table, finite, number, thinned

_CHOSEN, _FURTHER = 1, 4


@dataclass(frozen=True)
class Line:
    """One metric of metrics.jsonl and how it is called in a chart."""

    metric: str
    name: str
    colour: int


@dataclass(frozen=True)
class Wanted:
    """One chart: its lines are metrics of one training step. unit: bounds of a share; zero: whether 0 is a landmark."""

    name: str
    step: str
    title: str
    y: str
    words: str
    lines: tuple[Line, ...]
    is_share: bool = False
    zero: bool = False


_INTERNAL = "log-probability ratios to the reference times beta, as the objective has them"
WANTED = (
    Wanted(
        "alpha", "wrpo", "Alpha", "alpha",
        "Weight of the best source response in the objective; the best target response has the rest.",
        (Line("alpha", "alpha", _CHOSEN),), zero=True,
    ),
    Wanted(
        "internal-rewards", "wrpo", "Internal rewards", "internal reward",
        f"What the model gives the three responses: {_INTERNAL}. The upper two should part from the rejected one.",
        (
            Line("rewards/source_chosen", "y_ws: best of the sources", SOURCE_CHOSEN),
            Line("rewards/target_chosen", "y_wt: best of the target", TARGET_CHOSEN),
            Line("rewards/rejected", "y_l: worst of the target", REJECTED),
        ), zero=True,
    ),
    Wanted(
        "margins", "wrpo", "Reward margin", "margin",
        "Internal reward of what is preferred, weighted by alpha, less that of the rejected response.",
        (Line("rewards/margins", "margin", _FURTHER),), zero=True,
    ),
    Wanted(
        "accuracy", "wrpo", "Reward accuracy", "share of pairs",
        "Share of pairs whose preferred side has the higher internal reward; half of them by chance.",
        (
            Line("rewards/accuracies", "weighted pair against y_l", _FURTHER),
            Line("rewards/accuracies_source", "y_ws against y_l", SOURCE_CHOSEN),
        ), is_share=True,
    ),
    Wanted("loss", "wrpo", "Loss of preference training", "loss", "Loss of every optimizer step.",
           (Line("loss", "loss", SOURCE_CHOSEN),)),
    Wanted("grad-norm", "wrpo", "Gradient norm of preference training", "gradient norm",
           "Norm of the gradient before it is clipped.", (Line("grad_norm", "gradient norm", _CHOSEN),), zero=True),
    Wanted("sft-loss", "sft", "Loss of SFT", "loss", "Loss of every step of SFT on the best source responses.",
           (Line("loss", "loss", SOURCE_CHOSEN),)),
    Wanted("sft-grad-norm", "sft", "Gradient norm of SFT", "gradient norm",
           "Norm of the gradient before it is clipped.", (Line("grad_norm", "gradient norm", _CHOSEN),), zero=True),
)  # fmt: skip


def training(facts: RunFacts) -> Section:
    """Return the section on training."""
    missing = [f"{_LABELS[step]}: {facts.whyless(step)}." for step in ("wrpo", "sft") if step not in facts.metrics]
    charts, others = [], []
    for wanted in WANTED:
        made = chart_of(wanted, facts.metrics.get(wanted.step, []))
        (charts if isinstance(made, Chart) else others).append(made)
    missing += [reason for reason in others if reason]
    words = _progress(facts)
    return Section("training", "Training", "What training did", words, tuple(charts), (), tuple(missing))


_LABELS = {"wrpo": "Curves of preference training", "sft": "Curves of SFT"}


def _progress(facts: RunFacts) -> str:
    told = [
        f"{step} is at optimizer step {training.step:,} of {training.num_steps or '?'}"
        for step in ("sft", "wrpo")
        if step in facts.steps and facts.steps[step].manifest is None
        and (training := facts.steps[step].state.training).step is not None
    ]  # fmt: skip
    return f"Not done yet: {', '.join(told)}." if told else ""


def chart_of(wanted: Wanted, metrics: Sequence[Mapping[str, Any]]) -> Chart | str:
    """Return the chart, or what is missing: nothing is said of a step that has no metrics at all."""
    if not metrics:
        return ""
    series = {line.name: points_of(metrics, line.metric) for line in wanted.lines}
    if not any(series.values()):
        return f"{wanted.title}: the objective of this run does not log it."
    colours = {line.name: line.colour for line in wanted.lines}
    return lines_chart(wanted, {name: points for name, points in series.items() if points}, colours)


def points_of(metrics: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    """Return step and value of a metric where it is a finite number."""
    return [(float(line["step"]), value) for line in metrics if (value := finite(line.get(name))) is not None]


def lines_chart(wanted: Wanted, series: Mapping[str, list[tuple[float, float]]], colours: Mapping[str, int]) -> Chart:
    """Return a chart of lines over optimizer steps, thinned to what a screen shows; its table has what is drawn."""
    drawn = [
        {"name": name, "colour": colours[name], "points": thinned(points)} for name, points in series.items()
    ]  # fmt: skip
    longest = max(map(len, series.values()))
    words = wanted.words
    if longest > MOST_POINTS:
        words += f" Drawn are means of {-(-longest // MOST_POINTS)} logged steps each."
    data = {"series": drawn, "x": "optimizer step", "y": wanted.y, "share": wanted.is_share, "zero": wanted.zero}
    return Chart(wanted.name, wanted.title, words, "lines", data, _table(series))


def _table(series: Mapping[str, list[tuple[float, float]]]) -> Table:
    by_step: dict[float, dict[str, float]] = {}
    for name, points in series.items():
        for step, value in thinned(points):
            by_step.setdefault(step, {})[name] = value
    rows = tuple((number(step), *(number(by_step[step].get(name)) for name in series)) for step in sorted(by_step))
    return Table(("step", *series), rows)
