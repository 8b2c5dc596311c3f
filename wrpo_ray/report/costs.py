"""What each step took: time, tokens and money, as planned and as it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wrpo_ray.planning.against import Compared, compare, loads_of, unseen_time
from wrpo_ray.planning.units import money, short, span
from wrpo_ray.report.allocated import allocation_table
from wrpo_ray.report.colours import ACTUAL, PLANNED
from wrpo_ray.report.folder import RunFacts
from wrpo_ray.report.parts import Chart, Section, Table, number
from wrpo_ray.storage.manifest import Manifest

_HOUR_S = 3600.0


def costs(facts: RunFacts) -> Section:
    """Return the section on time, tokens and money."""
    rows = compare(facts.record.get("plan", {}).get("stages", ()), facts.manifests)
    charts = [chart for chart in (_planned_against_actual(rows), _tokens(facts)) if isinstance(chart, Chart)]
    missing = []
    if "stages" not in facts.record.get("plan", {}):
        reason = facts.record.get("plan", {}).get("reason", "the run's start did not store one")
        missing.append(f"Planned against actual: there is no plan ({reason}).")
    if not facts.manifests:
        missing.append("Actual times and tokens: no step is complete yet.")
    prices = _prices(facts)
    if not any(price is not None for price in prices.values()):
        missing.append("Prices: the config's `prices` name none of the accelerators and endpoints of this run.")
    found = (_stage_table(facts, rows, prices) if rows else None, allocation_table(facts))
    tables = tuple(table for table in found if table is not None)
    return Section("costs", "Cost", "What it cost", _total_words(facts), tuple(charts), tables, tuple(missing))


def _planned_against_actual(rows: list[Compared]) -> Chart | None:
    kept = [row for row in rows if row.planned_s is not None or row.actual_s is not None]
    if not any(row.planned_s is not None for row in kept):
        return None
    bars = [
        {"label": row.step, "value": seconds, "series": series, "colour": colour}
        for row in kept
        for series, colour, seconds in (("planned", PLANNED, row.planned_s), ("actual", ACTUAL, row.actual_s))
        if seconds is not None
    ]
    table = Table(
        ("step", "planned", "actual", "actual/planned"),
        tuple(
            (row.step, _span(row.planned_s), _span(row.actual_s), "" if row.ratio is None else f"{row.ratio:.2f}")
            for row in kept
        ),
    )
    done = [row for row in kept if row.ratio is not None]
    planned, actual = sum(row.planned_s or 0.0 for row in done), sum(row.actual_s or 0.0 for row in done)
    words = (
        f"Wall time of each step. Those that are done were planned to take {span(planned)} and took {span(actual)}"
        " together (steps may run side by side)." if done else "Wall time of each step; none of them is done yet."
    )  # fmt: skip
    data = {"rows": bars, "x": "time", "seconds": True}
    return Chart("planned-against-actual", "Planned against actual", words, "bars", data, table)


def _span(seconds: float | None) -> str:
    return "" if seconds is None else span(seconds)


def tokens_of(facts: RunFacts, step: str) -> float | None:
    """Return the tokens that a complete step drew, or that a training step went through; None where nobody counts."""
    drawn = facts.summary(step).get("num_tokens")
    if drawn is not None:
        return float(drawn)
    logged = [line["num_tokens"] for line in facts.metrics.get(step, ()) if "num_tokens" in line]
    return float(sum(logged)) if logged else None


def _tokens(facts: RunFacts) -> Chart | None:
    counted = {name: tokens for name in facts.steps if (tokens := tokens_of(facts, name))}
    if not counted:
        return None
    rows = [{"label": name, "value": tokens, "colour": ACTUAL} for name, tokens in counted.items()]
    table = Table(("step", "tokens"), tuple((name, number(tokens)) for name, tokens in counted.items()))
    words = (
        f"{short(sum(counted.values()))} tokens in all: written by the models that were sampled, and read by training."
    )
    return Chart("tokens", "Tokens of each step", words, "bars", {"rows": rows, "x": "tokens"}, table)


def _prices(facts: RunFacts, own_only: bool = False) -> dict[str, float | None]:
    """Return the price of each planned step as far as it is made, None where it cannot be told.

    own_only: without what this run has read from others.
    """
    prices = facts.config.get("prices") or {}
    made = {name: facts.manifests[name] for name in own_steps(facts)} if own_only else facts.manifests
    return {
        stage["step"]: price_of(stage, loads, prices)
        for stage in facts.record.get("plan", {}).get("stages", ())
        if (loads := loads_of(stage["step"], made))
    }


def price_of(stage: Mapping[str, Any], loads: Sequence[Manifest], prices: Mapping[str, Any]) -> float | None:
    """Return what a step cost by the price list; None without a price.

    A step's accelerators are those of the plan, held for its actual time: nobody has written down what it really held.
    An endpoint's input tokens are the plan's. loads: see loads_of.
    """
    endpoint = stage.get("endpoint")
    if endpoint:
        per_token = (prices.get("per_million_tokens") or {}).get(endpoint)
        written = [float(load.summary["num_tokens"]) for load in loads if "num_tokens" in load.summary]
        if per_token is None or len(written) < len(loads):
            return None
        return (per_token["output"] * sum(written) + per_token["input"] * stage["input_tokens"]) / 1e6
    per_hour = (prices.get("per_hour") or {}).get(stage["accelerator"])
    if per_hour is None:
        return None
    held = max(stage["replicas"], 1) * stage["gpus_per_replica"]
    return per_hour * held * sum(load.seconds for load in loads) / _HOUR_S


def total_price(facts: RunFacts) -> float | None:
    """Return the price of the run's own steps that are complete and have one; None when none has."""
    found = [price for price in _prices(facts, own_only=True).values() if price is not None]
    return sum(found) if found else None


def total_seconds(facts: RunFacts) -> float:
    """Return the seconds of the run's own complete steps, one after the other."""
    return sum(facts.manifests[name].seconds for name in own_steps(facts))


def own_steps(facts: RunFacts) -> list[str]:
    """Return the complete steps that this run has made; others are read from other runs, which have paid for them."""
    return [name for name in facts.manifests if facts.steps[name].state.run is None]


def currency(facts: RunFacts) -> str:
    """Return what prices are in."""
    return (facts.config.get("prices") or {}).get("currency", "USD")


def _total_words(facts: RunFacts) -> str:
    if not facts.manifests:
        return ""
    own = own_steps(facts)
    words = f"{len(own)} steps of this run are complete; together they worked {span(total_seconds(facts))}."
    if reused := len(facts.manifests) - len(own):
        words += f" Not counted: {reused} read from other runs."
    if unseen := unseen_time(facts.record.get("epoch")):
        words += f" {unseen}"
    total = total_price(facts)
    if total is None:
        return words
    without = sorted(name for name, price in _prices(facts, own_only=True).items() if price is None)
    words += f" By the config's price list that is {money(total, currency(facts))}, with the accelerators of the plan."
    return words + (f" Without a price: {', '.join(without)}." if without else "")


def _stage_table(facts: RunFacts, rows: list[Compared], prices: Mapping[str, float | None]) -> Table:
    heading = (
        "step", "planned", "actual", "tokens planned", "tokens", "responses planned", "responses",
        f"price ({currency(facts)})", "read from run",
    )  # fmt: skip
    cells = tuple(
        (
            row.step, _span(row.planned_s), _span(row.actual_s), _short(row.planned_tokens),
            number(tokens_of(facts, row.step) if row.actual_tokens is None else row.actual_tokens),
            _short(row.planned_responses), number(row.actual_responses),
            "" if (price := prices.get(row.step)) is None else f"{price:,.2f}",
            (facts.steps[row.step].state.run or "") if row.step in facts.steps else "",
        )
        for row in rows
    )  # fmt: skip
    return Table(heading, cells, "Every step")


def _short(value: float | None) -> str:
    return "" if value is None else short(value)
