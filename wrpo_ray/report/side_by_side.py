"""What of several runs is put side by side: where configs differ, win shares, metrics, evaluation, cost."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wrpo_ray.planning.units import money, span
from wrpo_ray.report.contribution import win_shares
from wrpo_ray.report.costs import currency, own_steps, tokens_of, total_price, total_seconds
from wrpo_ray.report.evaluation import read_evaluation
from wrpo_ray.report.folder import RunFacts
from wrpo_ray.report.overview import standing
from wrpo_ray.report.parts import finite, interval, number, percent

# What every run has for itself, or what makes no result another one.
_OWN = ("run.name", "run.root", "run.reuse")
_METRICS = ("loss", "grad_norm", "alpha", "rewards/margins", "rewards/accuracies", "rewards/source_chosen",
            "rewards/target_chosen", "rewards/rejected")  # fmt: skip


@dataclass(frozen=True)
class Block:
    """Rows of one cell per run. empty: what is said when there is no row."""

    title: str
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    empty: str


def labels(runs: Sequence[RunFacts]) -> list[str]:
    """Return what the runs are called: by name, and by folder where two have the same name."""
    names = [run.name for run in runs]
    return [name if names.count(name) == 1 else str(run.folder) for name, run in zip(names, runs, strict=True)]


def blocks(runs: Sequence[RunFacts]) -> list[Block]:
    """Return everything that is put side by side."""
    return [
        _state(runs), config_differences(runs), _wins(runs), _final_metrics(runs), _evaluation(runs), _cost(runs),
    ]  # fmt: skip


def _of_runs(runs: Sequence[RunFacts], shown: Callable[[RunFacts], str]) -> tuple[str, ...]:
    return tuple(shown(run) for run in runs)


def _kept(rows: Sequence[tuple[str, tuple[str, ...]]]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return tuple(row for row in rows if any(row[1]))


def _state(runs: Sequence[RunFacts]) -> Block:
    rows = (
        ("state", _of_runs(runs, standing)),
        ("steps complete", _of_runs(runs, lambda run: f"{len(run.manifests)} of {len(run.steps)}")),
        ("failed at", _of_runs(runs, lambda run: run.failure.step if run.failure else "")),
        ("quadruples", _of_runs(runs, lambda run: number(run.summary("fuse").get("num_quadruples")))),
    )
    return Block("runs", _kept(rows), "")


def config_differences(runs: Sequence[RunFacts]) -> Block:
    """Return the values of the configs that are not the same in all runs; "-" where a run has none."""
    configs = [flat(run.config) for run in runs]
    names = dict.fromkeys(name for config in configs for name in config)
    rows = tuple(
        (name, tuple(config.get(name, "-") for config in configs))
        for name in names
        if name not in _OWN and len({config.get(name) for config in configs}) > 1
    )
    return Block("config, where it differs", rows, "the same in all runs")


def flat(config: Mapping[str, Any]) -> dict[str, str]:
    """Return a config as text by dotted path; entries of lists go by their `name` where they have one."""
    found: dict[str, str] = {}

    def walk(value: Any, path: str) -> None:
        if isinstance(value, Mapping) and value:
            for key, inner in value.items():
                walk(inner, f"{path}.{key}" if path else str(key))
        elif isinstance(value, list) and value and all(isinstance(each, Mapping) and "name" in each for each in value):
            for each in value:
                walk(each, f"{path}.{each['name']}")
        else:
            found[path] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

    walk(config, "")
    return found


def _wins(runs: Sequence[RunFacts]) -> Block:
    names = dict.fromkeys(name for run in runs for name in win_shares(run))
    rows = tuple((name, _of_runs(runs, lambda run, name=name: percent(win_shares(run).get(name)))) for name in names)
    return Block("win share by source", rows, "no run has made its quadruples yet")


def _final_metrics(runs: Sequence[RunFacts]) -> Block:
    last = [run.metrics["wrpo"][-1] if "wrpo" in run.metrics else {} for run in runs]
    rows = [(name, tuple(number(finite(line.get(name))) for line in last)) for name in ("step", *_METRICS)]
    return Block("preference training, last logged step", _kept(rows), "no run has begun it")


def _evaluation(runs: Sequence[RunFacts]) -> Block:
    cells: list[dict[str, str]] = []
    for run in runs:
        found = read_evaluation(run)
        of_run = {
            f"reward of {model['name']}":
                f"{number(finite(model.get('mean_reward')))} "
                f"{interval(finite(model.get('reward_low')), finite(model.get('reward_high')))}".strip()
            for model in found.get("models") or ()
        }  # fmt: skip
        of_run |= {
            f"{pair['model']} vs {pair['baseline']}, {pair['judged_by']}":
                f"{percent(pair['win_rate'])} {interval(pair.get('low'), pair.get('high'), percent)}".strip()
            for pair in found.get("pairs") or ()
        }  # fmt: skip
        of_run |= {
            f"refusals of {model['name']}": percent(model["refusal_rate"])
            for model in (found.get("safety") or {}).get("models", ())
        }
        of_run |= {
            f"{of['task']} {of['metric']} of {of['model']}": number(of["value"]) for of in found.get("benchmarks") or ()
        }
        cells.append(of_run)
    names = dict.fromkeys(name for of_run in cells for name in of_run)
    rows = tuple((name, tuple(of_run.get(name, "") for of_run in cells)) for name in names)
    return Block("evaluation", rows, "no run has been evaluated")


def _cost(runs: Sequence[RunFacts]) -> Block:
    def price(run: RunFacts) -> str:
        return money(total_price(run), currency(run))

    def reused(run: RunFacts) -> str:
        return number(float(sum(step.state.run is not None for step in run.steps.values())))

    def tokens(run: RunFacts) -> str:
        return number(sum(tokens_of(run, step) or 0.0 for step in own_steps(run)))

    rows = (
        ("time of its own steps", _of_runs(runs, lambda run: span(total_seconds(run)) if run.manifests else "")),
        ("price of its own steps", _of_runs(runs, price)),
        ("tokens of its own steps", _of_runs(runs, tokens)),
        ("steps read from other runs", _of_runs(runs, reused)),
    )
    return Block("cost", _kept(rows), "no step is complete yet")
