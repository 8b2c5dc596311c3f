"""The finished runs of the miniature's study: by variant and seed, what their models score and how training went."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.miniature.scores import Asked, Scored, read_asked, read_scored
from wrpo_ray.errors import ConfigError
from wrpo_ray.schema import Quadruple
from wrpo_ray.storage.location import Location
from wrpo_ray.storage.tables import read_rows
from wrpo_ray.study.load import load_study
from wrpo_ray.study.results import RunResult, run_result
from wrpo_ray.train.metrics import read_metrics

_SEEDED = re.compile(r"(.+)-seed-(\d+)")
_TRAINING = "train/"
FUSED, TARGET_SFT, TARGET = "fused", "target-sft", "target"
# Logged metrics of training, as figures and tables read them: metric and what it is called there.
INTERNAL_REWARDS = (
    ("rewards/source_chosen", "y_ws"),
    ("rewards/target_chosen", "y_wt"),
    ("rewards/rejected", "y_l"),
    ("rewards/margins", "margin of the loss"),
)
SOURCE_ACCURACY = "rewards/accuracies_source"


@dataclass(frozen=True)
class Quadruples:
    """How many a run trained on, and the mean rewards of their three responses."""

    count: int
    source_chosen: float
    target_chosen: float
    rejected: float


@dataclass(frozen=True)
class Variant:
    """One finished run of the study.

    scores: by model, sources among them. metrics: the logged training steps. at_end: mean of each metric over the last
    tenth of them, as the study's own table has it.
    """

    scores: Mapping[str, Scored]
    quadruples: Quadruples
    metrics: list[dict[str, Any]]
    at_end: Mapping[str, float]


@dataclass(frozen=True)
class Gathered:
    """variants: by name and seed. asked: what the held-out prompts ask for, by prompt_id."""

    variants: Mapping[str, Mapping[int, Variant]]
    asked: Mapping[str, Asked]
    sources: tuple[str, ...]

    def of_common_seeds(self, variants: Sequence[str]) -> Gathered:
        """Return those of these variants that any seed has finished, with the seeds that all of them have.

        Gains are taken seed by seed. Without a seed in common there is no variant in what is returned.
        """
        finished = self.finished(variants)
        seeds = set.intersection(*(set(self.variants[name]) for name in finished)) if finished else set[int]()
        common = {name: {seed: self.variants[name][seed] for seed in sorted(seeds)} for name in finished if seeds}
        return Gathered(common, self.asked, self.sources)

    def finished(self, variants: Sequence[str]) -> list[str]:
        """Return those of these variants that any seed has finished, in their order."""
        return [name for name in variants if name in self.variants]

    @property
    def seeds(self) -> list[int]:
        """The seeds of any run."""
        return sorted({seed for of_variant in self.variants.values() for seed in of_variant})

    def scores(self, variant: str, model: str) -> list[Scored]:
        """Return a model's scores of a variant, one per seed; none of a variant that is not finished."""
        return [run.scores[model] for run in self.of_seeds(variant)]

    def scores_of_any(self, variant: str, model: str) -> list[Scored]:
        """Return a model's scores of those seeds that tested it: sources answer on demand."""
        found = (run.scores.get(model) for run in self.of_seeds(variant))
        return [scored for scored in found if scored is not None]

    def of_seeds(self, variant: str) -> list[Variant]:
        """Return a variant's runs, one per seed; none of a variant that is not finished."""
        return [run for _, run in sorted(self.variants.get(variant, {}).items())]


def gather(path: str) -> Gathered:
    """Return the finished runs of a study file; raises ConfigError where there is none."""
    study = load_study(path)
    sources = tuple(source.name for source in study.any_config.sources)
    evaluation = study.any_config.evaluation
    assert evaluation is not None, "the miniature's config has an evaluation"
    variants: dict[str, dict[int, Variant]] = {}
    for run in study.runs:
        result = run_result(run, None)
        steps = {step.name: step.folder for step in result.steps}
        # Nothing is read of the last step, the export: it is another one once sources have been evaluated as well.
        if "evaluate" not in steps:
            continue
        scored = [folder for name, folder in steps.items() if name.startswith("evaluation-score")]
        variant, seed = _seeded(run.name)
        scores = read_scored(scored, (TARGET, TARGET_SFT, FUSED, *sources))
        quadruples = _quadruples(steps["fuse"])
        metrics = read_metrics(steps["wrpo"] / "metrics.jsonl")
        variants.setdefault(variant, {})[seed] = Variant(scores, quadruples, metrics, _at_end(result))
    if not variants:
        raise ConfigError(
            f"no run of {path} is finished", help="python jobs/study.py --config with this file works through it"
        )
    return Gathered(variants, read_asked(Path(evaluation.prompts.path)), sources)


def _at_end(result: RunResult) -> dict[str, float]:
    metrics = (
        (name.removeprefix(_TRAINING), value) for name, value in result.row.items() if name.startswith(_TRAINING)
    )
    return {name: float(value) for name, value in metrics if value is not None}


def _quadruples(folder: Location) -> Quadruples:
    rows = read_rows(folder, Quadruple)
    rewards = [(row.source_chosen_reward, row.target_chosen_reward, row.rejected_reward) for row in rows]
    source_chosen, target_chosen, rejected = (sum(column) / len(rows) for column in zip(*rewards, strict=True))
    return Quadruples(len(rows), source_chosen, target_chosen, rejected)


def _seeded(run: str) -> tuple[str, int]:
    found = _SEEDED.fullmatch(run)
    assert found is not None, f"a run of a study with seeds is called NAME-seed-NUMBER, not {run}"
    return found[1], int(found[2])
