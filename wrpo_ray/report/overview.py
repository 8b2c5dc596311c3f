"""The top of the page: what this run is, how far it is, the few numbers that matter, and what went wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from wrpo_ray.planning.units import money, span
from wrpo_ray.report.contribution import win_shares
from wrpo_ray.report.costs import currency, total_price, total_seconds
from wrpo_ray.report.evaluation import read_evaluation
from wrpo_ray.report.folder import RunFacts
from wrpo_ray.report.parts import Section, Table, finite, number, percent
from wrpo_ray.run_status import advice, done, duration

Standing = Literal["finished", "running", "failed", "stopped", "damaged", "not begun"]


@dataclass(frozen=True)
class Card:
    """One number that matters: what it is, the number, and a word on it."""

    title: str
    value: str
    words: str = ""


def standing(facts: RunFacts) -> Standing:
    """Return where the run stands, in one word."""
    if facts.state.every_damage:
        return "damaged"
    if facts.steps and all(step.state.phase in ("complete", "left out") for step in facts.steps.values()):
        return "finished"
    if facts.state.live:
        return "running"
    if facts.failure is not None:
        return "failed"
    return "stopped" if facts.manifests or facts.state.holder is not None else "not begun"


def standing_words(facts: RunFacts) -> str:
    """Return what the one word means here, and what to do next."""
    complete = len(facts.manifests)
    return f"{complete} of {len(facts.steps)} steps complete. Next: {advice(facts.state)}."


def cards(facts: RunFacts) -> Iterator[Card]:
    """Yield the numbers that matter, as far as there are any."""
    shares = win_shares(facts)
    if shares:
        best = max(shares, key=lambda name: shares[name])
        yield Card("most chosen source", best, f"best answer on {percent(shares[best])} of the quadruples")
    fuse = facts.summary("fuse")
    if fuse:
        yield Card("quadruples", number(fuse["num_quadruples"]), f"from {number(fuse['num_prompts'])} prompts")
    yield from _result(facts)
    if "wrpo" in facts.metrics:
        last = facts.metrics["wrpo"][-1]
        if (accuracy := finite(last.get("rewards/accuracies"))) is not None:
            yield Card("reward accuracy", percent(accuracy), f"at step {number(last['step'])}")
    if facts.manifests:
        price, took = total_price(facts), span(total_seconds(facts))
        if price is None:
            yield Card("time", took, "of its own steps, one after the other")
        else:
            yield Card("cost", money(price, currency(facts)), f"by the plan's accelerators, {took} of steps")


def _result(facts: RunFacts) -> Iterator[Card]:
    """Yield the mean reward of the last model, and what it was before training."""
    models = [model for model in read_evaluation(facts).get("models", ()) if model.get("mean_reward") is not None]
    if not models:
        return
    named = {model["name"]: model for model in models}
    last, first = named.get("fused", models[-1]), models[0]
    words = f"{first['name']}: {number(first['mean_reward'], 3)}" if last is not first else ""
    yield Card(f"reward of {last['name']}", number(last["mean_reward"], 3), words)


def steps_section(facts: RunFacts) -> Section:
    """Return the table of all steps."""
    rows = tuple(
        (
            name, step.state.phase, done(step.state), number(step.state.rows or None),
            "" if step.state.seconds is None else duration(step.state.seconds),
            step.state.pace.unknown or
            ("" if step.state.pace.seconds_left is None else f"about {duration(step.state.pace.seconds_left)} left"),
        )
        for name, step in facts.steps.items()
    )  # fmt: skip
    tables = (Table(("step", "state", "done", "rows", "took", "time left"), rows, "Steps"),) if rows else ()
    damages = facts.state.every_damage
    if damages:
        told = tuple((damage.path, damage.code, damage.reason) for damage in damages)
        tables += (Table(("file", "code", "what is wrong"), told, "Damage"),)
    missing = () if rows else ("Steps: no start of this run has got so far as to list them.",)
    return Section("steps", "Steps", "Every step", "", (), tables, missing)
