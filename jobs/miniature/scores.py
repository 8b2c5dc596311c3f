"""What each model of a miniature run scores on the held-out prompts: prompt by prompt, fact by fact, skill by skill."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wrpo_ray.evaluate.answers import rewarded
from wrpo_ray.evaluate.bootstrap import Floats, Interval, mean_interval
from wrpo_ray.schema import prompt_id
from wrpo_ray.storage.location import Location

_NUM_BOOTSTRAP = 2000


@dataclass(frozen=True)
class Asked:
    """What a held-out prompt asks for: one fact of a skill, in one of several wordings."""

    skill: str
    fact: str


@dataclass(frozen=True)
class Scored:
    """Mean rewards by prompt_id, of one model of one run."""

    by_prompt: Mapping[str, float]

    @property
    def mean(self) -> float:
        """Over all prompts."""
        return sum(self.by_prompt.values()) / len(self.by_prompt)


def read_asked(prompts: Path) -> dict[str, Asked]:
    """Return by prompt_id what each prompt of a JSON lines file tests; the answer stands for the fact."""
    rows = [json.loads(line) for line in prompts.read_text(encoding="utf-8").splitlines()]
    return {
        prompt_id([{"role": "user", "content": row["prompt"]}]): Asked(row["domain"], row["answer"]) for row in rows
    }


def read_scored(steps: Iterable[Location], models: Iterable[str]) -> dict[str, Scored]:
    """Return by model what finished scoring steps gave it; several samples of a prompt are averaged."""
    return {name: Scored(answered.values) for name, answered in rewarded(steps, models).items() if answered.values}


def by_skill(scored: Scored, asked: Mapping[str, Asked]) -> dict[str, float]:
    """Return the mean reward by skill, in the order of the prompts' file."""
    of_skill: dict[str, list[float]] = {each.skill: [] for each in asked.values()}
    for prompt, value in scored.by_prompt.items():
        of_skill[asked[prompt].skill].append(value)
    return {skill: sum(values) / len(values) for skill, values in of_skill.items() if values}


def gain(
    better: Sequence[Scored], baseline: Sequence[Scored], asked: Mapping[str, Asked]
) -> tuple[float, Interval, list[float]]:
    """Return the mean gain over a baseline, its 95 % interval, and the gain of each seed.

    better, baseline: one per seed, in the same order. Wordings of one fact rise and fall together; so do seeds, which
    share models and prompts: facts are resampled, each with all of its prompts and seeds.
    """
    of_seeds = [_differences(*pair) for pair in zip(better, baseline, strict=True)]
    of_fact: dict[Asked, list[float]] = {}
    for differences in of_seeds:
        for prompt, value in differences.items():
            of_fact.setdefault(asked[prompt], []).append(value)
    means: Floats = np.array([sum(values) / len(values) for values in of_fact.values()])
    own = [sum(differences.values()) / len(differences) for differences in of_seeds]
    return sum(own) / len(own), mean_interval(means, _NUM_BOOTSTRAP, seed=0), own


def _differences(better: Scored, baseline: Scored) -> dict[str, float]:
    shared = [prompt for prompt in better.by_prompt if prompt in baseline.by_prompt]
    return {prompt: better.by_prompt[prompt] - baseline.by_prompt[prompt] for prompt in shared}
