"""How long responses are: of every model, and of the target before and after training."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc

from wrpo_ray.report.colours import NUM_COLOURS, colour_of
from wrpo_ray.report.columns import pieces
from wrpo_ray.report.contribution import scoring_steps
from wrpo_ray.report.distributions import distributions
from wrpo_ray.report.evaluation import read_evaluation
from wrpo_ray.report.folder import RunFacts, StepFacts
from wrpo_ray.report.histogram import Histogram
from wrpo_ray.report.parts import Chart, Section, Table, number

_EVALUATED = "evaluation-score"


def lengths(facts: RunFacts) -> Section:
    """Return the section on lengths."""
    charts, missing = [], []
    for made in (_before_and_after(facts), _by_model(facts)):
        (charts if isinstance(made, Chart) else missing).append(made)
    return Section("lengths", "Lengths", "How long the responses are", "", tuple(charts), (), tuple(missing))


def lengths_of(steps: Iterable[StepFacts]) -> dict[str, Histogram]:
    """Return the numbers of tokens of the responses of scoring steps, by model."""
    found: dict[str, Histogram] = {}
    for piece in itertools.chain.from_iterable(pieces(step, ("source", "num_tokens")) for step in steps):
        for model in pc.call_function("unique", [piece.column(0)]).to_pylist():
            of_model = pc.call_function("equal", [piece.column(0), model])
            values = piece.column(1).filter(of_model).to_numpy(zero_copy_only=False)
            found.setdefault(model, Histogram()).add(values.astype(np.float64))
    return found


def _before_and_after(facts: RunFacts) -> Chart | str:
    found = lengths_of([facts.steps[_EVALUATED]] if _EVALUATED in facts.steps else [])
    if not found:
        told = [model for model in read_evaluation(facts).get("models", ()) if model.get("mean_tokens") is not None]
        if told:
            return _means(told)
        reason = facts.whyless(_EVALUATED) if facts.config.get("evaluation") or not facts.config else (
            "the config has no evaluation, so nobody asked the models before and after training the same prompts"
        )  # fmt: skip
        return f"Lengths before and after training: {reason}."
    means = ", ".join(f"{name} {number(each.mean, 3)}" for name, each in found.items())
    words = f"Tokens of the responses to the held-out prompts, before and after training. Means: {means}."
    colours = {name: colour_of(name, list(found)) for name in found}
    return distributions("lengths-before-after", "Lengths before and after", words, "tokens", found, colours)


def _means(models: Sequence[Mapping[str, Any]]) -> Chart:
    """Return a chart of mean lengths alone, where the answers themselves are not at hand."""
    rows = [
        {"label": model["name"], "value": model["mean_tokens"], "colour": position % NUM_COLOURS}
        for position, model in enumerate(models)
    ]
    table = Table(("model", "mean tokens"), tuple((model["name"], number(model["mean_tokens"])) for model in models))
    words = "Mean tokens of the responses to the held-out prompts, before and after training."
    data = {"rows": rows, "x": "mean tokens"}
    return Chart("lengths-before-after", "Lengths before and after", words, "bars", data, table)


def _by_model(facts: RunFacts) -> Chart | str:
    names = (*facts.sources, "target-sft")
    found = lengths_of(step for name in names for step in scoring_steps(facts, name))
    if not found:
        return f"Lengths by model: {facts.whyless(f'score-{names[0]}')}."
    words = "Tokens of all responses that training data is chosen from, each model in its own tokens."
    colours = {name: colour_of(name, facts.sources) for name in found}
    return distributions("lengths-by-model", "Lengths by model", words, "tokens", found, colours)
