"""Whether the result is better: rewards with intervals, win rates by judge, safety, benchmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wrpo_ray.evaluate.evaluation_file import read_evaluation_file
from wrpo_ray.report.colours import NUM_COLOURS
from wrpo_ray.report.folder import RunFacts
from wrpo_ray.report.parts import Chart, Section, Table, interval, number, percent

_JUDGES = {"reward": "the reward", "verifier": "the rule", "judge": "the judge"}
# The table has all of them.
_MOST_WORDS = 3


def evaluation(facts: RunFacts) -> Section:
    """Return the section on evaluation: whatever the step wrote, and what it did not."""
    found = read_evaluation(facts)
    title = "Is it better?"
    if not found:
        return Section("evaluation", "Result", title, missing=(f"Evaluation: {_reason(facts)}.",))
    charts = [chart for chart in (_rewards(found), _win_rates(found)) if chart is not None]
    tables = [table for table in (_gains(facts), _safety(found), _benchmarks(found), _pairs(found)) if table]
    missing = [
        f"{name}: not asked for, or not written by this version's evaluate step."
        for name, key in (("Win rates", "pairs"), ("Safety", "safety"), ("Benchmarks", "benchmarks"))
        if not found.get(key)
    ]
    return Section("evaluation", "Result", title, _words(found), tuple(charts), tuple(tables), tuple(missing))


def read_evaluation(facts: RunFacts) -> dict[str, Any]:
    """Return evaluation.json of the complete step, or what its summary tells in the same form; {} before that.

    Raises StorageError when the file cannot be used.
    """
    step = facts.steps.get("evaluate")
    if step is None or step.manifest is None:
        return {}
    return read_evaluation_file(step.folder, step.manifest) or _of_summary(step.summary)


def _of_summary(summary: Mapping[str, Any]) -> dict[str, Any]:
    models = [
        {"name": name, "mean_reward": of["reward"]["mean"], "reward_low": of["reward"]["low"],
         "reward_high": of["reward"]["high"]}
        for name, of in summary.get("models", {}).items()
    ]  # fmt: skip
    return {"models": models} if models else {}


def _reason(facts: RunFacts) -> str:
    if "evaluate" not in facts.steps and facts.config and not facts.config.get("evaluation"):
        return "the config has no section `evaluation`"
    return facts.whyless("evaluate")


def _words(found: Mapping[str, Any]) -> str:
    pairs = [pair for pair in found.get("pairs") or () if pair.get("words")]
    told = [f"By {_JUDGES.get(pair['judged_by'], pair['judged_by'])}: {pair['words']}" for pair in pairs[:_MOST_WORDS]]
    safety = found.get("safety") or {}
    told += [f"Safety: {safety['words']}"] if safety.get("words") else []
    return " ".join(f"{sentence.rstrip('.')}." for sentence in told)


def _rewards(found: Mapping[str, Any]) -> Chart | None:
    models = [model for model in found.get("models") or () if model.get("mean_reward") is not None]
    if not models:
        return None
    rows = [
        {"label": model["name"], "low": model.get("reward_low"), "middle": model["mean_reward"],
         "high": model.get("reward_high"), "colour": position % NUM_COLOURS}
        for position, model in enumerate(models)
    ]  # fmt: skip
    table = Table(
        ("model", "mean reward", "95 % interval", "answers", "mean tokens"),
        tuple(
            (
                model["name"], number(model["mean_reward"]),
                interval(model.get("reward_low"), model.get("reward_high")),
                number(model.get("num_answers")), number(model.get("mean_tokens")),
            )
            for model in models
        ),
    )  # fmt: skip
    best = max(models, key=lambda model: model["mean_reward"])
    words = (
        f"Mean reward of the answers to held-out prompts, with 95 % intervals; {best['name']} has the highest,"
        f" {number(best['mean_reward'])}."
    )
    data = {"rows": rows, "x": "mean reward"}
    return Chart("evaluation-rewards", "Reward on held-out prompts", words, "ranges", data, table)


def _win_rates(found: Mapping[str, Any]) -> Chart | None:
    # Of two models without a prompt in common, nothing is known.
    pairs = [pair for pair in found.get("pairs") or () if pair.get("win_rate") is not None]
    if not pairs:
        return None
    models = {pair["model"] for pair in pairs}
    judges = list(dict.fromkeys(pair["judged_by"] for pair in pairs))
    rows = [
        {"label": _label(pair, models), "low": pair.get("low"),
         "middle": pair["win_rate"], "high": pair.get("high"), "colour": judges.index(pair["judged_by"]) % NUM_COLOURS}
        for pair in pairs
    ]  # fmt: skip
    of = f" by {pairs[0]['model']}" if len(models) == 1 else ""
    words = f"Share of prompts won{of}, ties counting half, with 95 % intervals; at half both are equally good."
    if len(pairs) > 1:
        words += " Each interval is that of its comparison alone; what is said in words is corrected for all of them."
    data = {"rows": rows, "x": "win rate", "percent": True, "landmark": 0.5}
    return Chart("win-rates", "Win rates", words, "ranges", data, _rates(pairs))


def _label(pair: Mapping[str, Any], models: set[str]) -> str:
    """Name a comparison, as shortly as it is told apart: nearly always it is the fused model that is compared."""
    of = "" if len(models) == 1 else f"{pair['model']} "
    return f"{of}vs {pair['baseline']}, {pair['judged_by']}"


def _rates(pairs: Sequence[Mapping[str, Any]]) -> Table:
    return Table(
        ("model", "baseline", "judged by", "win rate", "95 % interval"),
        tuple(
            (
                pair["model"], pair["baseline"], pair["judged_by"], percent(pair["win_rate"]),
                interval(pair.get("low"), pair.get("high"), percent),
            )
            for pair in pairs
        ),
    )  # fmt: skip


def _pairs(found: Mapping[str, Any]) -> Table | None:
    pairs: Sequence[Mapping[str, Any]] = found.get("pairs") or ()
    if not pairs:
        return None
    heading = (
        "model", "baseline", "judged by", "prompts", "wins", "ties", "losses", "undecided", "p", "p, corrected",
        "length-controlled", "95 % interval", "position bias", "in words",
    )  # fmt: skip
    rows = tuple(
        (
            pair["model"], pair["baseline"], pair["judged_by"],
            *(number(pair.get(name)) for name in ("num_prompts", "wins", "ties", "losses", "num_undecided")),
            *(number(pair.get(name)) for name in ("p_value", "p_value_corrected")),
            percent(pair.get("length_controlled_win_rate")),
            interval(pair.get("length_controlled_low"), pair.get("length_controlled_high"), percent),
            percent(pair.get("position_bias")), pair.get("words") or "",
        )
        for pair in pairs
    )  # fmt: skip
    return Table(heading, rows, "Every comparison")


def _gains(facts: RunFacts) -> Table | None:
    """Return the gain of each model over the one before it, on the same prompts, as the step's summary has it."""
    models = facts.summary("evaluate").get("models")
    if not isinstance(models, Mapping):
        return None
    names = list(models)
    rows = tuple(
        (name, names[position - 1], number(gain["mean"]), interval(gain["low"], gain["high"]))
        for position, name in enumerate(names)
        if (gain := models[name].get("gain"))
    )
    words = "The difference is taken prompt by prompt; an interval that does not hold 0 is a difference."
    return Table(("model", "over", "gain in reward", "95 % interval"), rows, "Gain", words) if rows else None


def _safety(found: Mapping[str, Any]) -> Table | None:
    safety = found.get("safety")
    if not safety:
        return None
    rows = tuple(
        (model["name"], percent(model["refusal_rate"]), interval(model.get("low"), model.get("high"), percent))
        for model in safety["models"]
    )
    words = f"{number(safety.get('num_prompts'))} prompts. {safety.get('words') or ''}".strip()
    return Table(("model", "refusal rate", "95 % interval"), rows, "Safety", words)


def _benchmarks(found: Mapping[str, Any]) -> Table | None:
    rows = tuple(
        (of["model"], of["task"], of["metric"], number(of["value"]), number(of.get("stderr")))
        for of in found.get("benchmarks") or ()
    )
    return Table(("model", "task", "metric", "value", "standard error"), rows, "Benchmarks") if rows else None
