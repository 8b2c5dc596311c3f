"""Which source contributed what: whose answers were chosen, how they were rewarded, and against the target's own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from wrpo_ray.report.colours import REJECTED, SOURCE_CHOSEN, TARGET_CHOSEN, colour_of
from wrpo_ray.report.columns import pieces
from wrpo_ray.report.distributions import distributions
from wrpo_ray.report.folder import RunFacts, StepFacts
from wrpo_ray.report.histogram import Histogram
from wrpo_ray.report.parts import Chart, Section, Table, number, percent

_REWARDS = {
    "source_chosen": ("y_ws: best of the sources", SOURCE_CHOSEN),
    "target_chosen": ("y_wt: best of the target", TARGET_CHOSEN),
    "rejected": ("y_l: worst of the target", REJECTED),
}


@dataclass
class Chosen:
    """Rewards of all quadruples. wins, ties, losses: of the best source response against the target's best."""

    rewards: dict[str, Histogram] = field(default_factory=lambda: {name: Histogram() for name in _REWARDS})
    gain: Histogram = field(default_factory=Histogram)
    wins: int = 0
    ties: int = 0
    losses: int = 0


def contribution(facts: RunFacts) -> Section:
    """Return the section on sources."""
    charts, missing = [], []
    for made in (_win_share(facts), _rewards_by_source(facts), _source_against_target(facts)):
        (charts if isinstance(made, Chart) else missing).append(made)
    words = "Of every prompt, the best response of all sources is the one that the target learns from."
    return Section("contribution", "Sources", "Who contributed what", words, tuple(charts), (), tuple(missing))


def win_shares(facts: RunFacts) -> Mapping[str, float]:
    """Return for each source the share of quadruples whose y_ws it gave, or nothing before there are any."""
    return facts.summary("fuse").get("best_share", {})


def _win_share(facts: RunFacts) -> Chart | str:
    shares, for_sft = win_shares(facts), facts.summary("select_sft").get("best_share", {})
    if not shares:
        if not for_sft:
            return f"Win share by source: {facts.whyless('fuse')}."
        shares, told = for_sft, "SFT examples (quadruples are not made yet)"
    else:
        told = "quadruples"
    # In the order of the config: the same source has the same place in every chart.
    rows = [{"label": name, "value": share, "colour": colour_of(name, facts.sources)} for name, share in shares.items()]
    best = max(shares, key=lambda name: shares[name])
    counts = facts.summary("fuse").get("num_quadruples")
    table = Table(
        ("source", "share of quadruples", "share of SFT examples"),
        tuple((name, percent(win_shares(facts).get(name)), percent(for_sft.get(name))) for name in facts.sources),
    )
    words = f"{best} gave the best source response most often: on {percent(shares[best])} of the {told}" + (
        f" ({number(counts)})." if counts is not None else "."
    )
    data = {"rows": rows, "x": f"share of {told}", "percent": True}
    return Chart("win-share", "Win share by source", words, "bars", data, table)


def _rewards_by_source(facts: RunFacts) -> Chart | str:
    histograms = {name: rewards_of(facts, name) for name in facts.sources}
    trained = rewards_of(facts, "target-sft")
    if trained.count:
        histograms["target-sft"] = trained
    counted = {name: histogram for name, histogram in histograms.items() if histogram.count}
    if not counted:
        first = facts.sources[0] if facts.sources else ""
        return f"Rewards by source: {facts.whyless(f'score-{first}')}."
    best = max(counted, key=lambda name: counted[name].mean)
    waiting = [name for name in facts.sources if name not in counted]
    words = f"Rewards of all responses; {best} has the highest mean, {number(counted[best].mean)}."
    words += f" Nothing scored yet of {', '.join(waiting)}." if waiting else ""
    colours = {name: colour_of(name, facts.sources) for name in counted}
    return distributions("rewards", "Rewards by source", words, "reward", counted, colours)


def scoring_steps(facts: RunFacts, model: str) -> list[StepFacts]:
    """Return the steps that score a model's responses; with an allocation there are two of a source."""
    return [facts.steps[name] for name in (f"first-score-{model}", f"score-{model}") if name in facts.steps]


def rewards_of(facts: RunFacts, model: str) -> Histogram:
    """Return the rewards of a model's responses that are scored so far."""
    histogram = Histogram()
    for step in scoring_steps(facts, model):
        for piece in pieces(step, ("reward",)):
            histogram.add(piece.column(0).to_numpy(zero_copy_only=False))
    return histogram


def chosen_of(step: StepFacts) -> Chosen:
    """Return what the quadruples' rewards tell; non-finite ones are never chosen, so there are none."""
    chosen = Chosen()
    for piece in pieces(step, [f"{name}_reward" for name in _REWARDS]):
        columns = [piece.column(f"{name}_reward").to_numpy(zero_copy_only=False) for name in _REWARDS]
        for name, values in zip(_REWARDS, columns, strict=True):
            chosen.rewards[name].add(values)
        gain = columns[0] - columns[1]
        chosen.gain.add(gain)
        chosen.wins += int(np.count_nonzero(gain > 0))
        chosen.ties += int(np.count_nonzero(gain == 0))
        chosen.losses += int(np.count_nonzero(gain < 0))
    return chosen


def _source_against_target(facts: RunFacts) -> Chart | str:
    step = facts.steps.get("fuse")
    chosen = chosen_of(step) if step is not None else Chosen()
    if not chosen.gain.count:
        return f"Best source response against best target response: {facts.whyless('fuse')}."
    words = against_words(chosen)
    counted = {label: chosen.rewards[name] for name, (label, _) in _REWARDS.items()}
    colours = dict(_REWARDS.values())
    title = "Best of the sources against the target's own"
    return distributions("source-against-target", title, words, "reward", counted, colours)


def against_words(chosen: Chosen) -> str:
    """Say how often the best source response beats the best one of the target, and by how much."""
    of = chosen.wins + chosen.ties + chosen.losses
    mean = chosen.gain.mean
    told = "the means are equal" if mean == 0 else (
        f"on the mean it is {number(math.fabs(mean))} {'higher' if mean > 0 else 'lower'}"
    )  # fmt: skip
    shares: Sequence[str] = [percent(count / of) for count in (chosen.wins, chosen.ties, chosen.losses)]
    return (
        f"On {shares[0]} of {number(of)} prompts the best source response has a higher reward than the target's best,"
        f" on {shares[1]} the same, on {shares[2]} a lower one; {told}."
    )
