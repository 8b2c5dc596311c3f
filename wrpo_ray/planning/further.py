"""What evaluation draws beside the held-out prompts: benchmark answers and answers to harmful requests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from wrpo_ray.config import EvaluationConfig, SamplingConfig
from wrpo_ray.config_benchmarks import BenchmarksConfig, SafetyConfig


class Draw(NamedTuple):
    """A sampling step of each model: its name between "evaluation-" and the model's, prompts, sampling, what it awaits.

    after: the step of the same model that it follows, named alike; None for the one that trains the model. of_sources:
    of the sources that answer benchmarks, too.
    """

    stage: str
    num_prompts: int
    sampling: SamplingConfig
    after: str | None = None
    of_sources: bool = False


def further_draws(evaluation: EvaluationConfig) -> Iterator[Draw]:
    """Yield the sampling steps; a file that cannot be read gives none, and preflight says what is wrong with it."""
    # They take pyarrow, which a plan without these sections does without.
    from wrpo_ray.benchmark_questions import read_questions
    from wrpo_ray.prompt_files import FileRow, read_rows

    if (section := evaluation.benchmarks) is not None:
        questions, sampling = read_questions(section)[0], _sampling(section)
        one, two = ({each.prompt_id for each in questions if len(each.turns) == count} for count in (1, 2))
        if one:
            yield Draw("benchmark-sample", len(one), sampling, of_sources=True)
        if two:
            second = sum(len(question.turns) == 2 for question in questions)
            yield Draw("mt-bench-sample", len(two), sampling, of_sources=True)
            yield Draw("mt-bench-2-sample", second, sampling, "mt-bench-sample", of_sources=True)
    if (asked := evaluation.safety) is not None:
        rows = sum(isinstance(row, FileRow) for row in read_rows(asked.prompts, [asked.column]))
        if rows:
            yield Draw("safety-sample", rows, _sampling(asked))


def _sampling(section: BenchmarksConfig | SafetyConfig) -> SamplingConfig:
    # The temperature changes no cost.
    return SamplingConfig(num_samples=1, temperature=0.0, top_p=1.0, max_tokens=section.max_tokens)
