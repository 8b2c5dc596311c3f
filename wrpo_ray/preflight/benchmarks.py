"""Checks of what evaluation does beside comparing rewards: files that are read, tokens that must fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from wrpo_ray.benchmark_questions import read_questions
from wrpo_ray.config import ModelConfig, PromptsConfig
from wrpo_ray.config_benchmarks import BenchmarksConfig, LmEvalConfig, SafetyConfig
from wrpo_ray.errors import Problem
from wrpo_ray.prompts import check_prompts


def check_files(benchmarks: BenchmarksConfig | None, safety: SafetyConfig | None) -> Iterator[Problem]:
    """Yield everything that is wrong with question files and harmful prompts."""
    if benchmarks is not None:
        yield from read_questions(benchmarks)[1]
    if safety is not None:
        yield from check_prompts(PromptsConfig(path=safety.prompts, column=safety.column))


def check_tokens(
    target: ModelConfig, benchmarks: BenchmarksConfig | None, safety: SafetyConfig | None
) -> Iterator[Problem]:
    """Yield a problem for answers that leave no room for a prompt."""
    sections: Mapping[str, BenchmarksConfig | SafetyConfig | None] = {"benchmarks": benchmarks, "safety": safety}
    limit = target.engine.max_model_len
    for name, section in sections.items():
        if section is not None and section.max_tokens >= limit:
            rule = f"must be less than target.engine.max_model_len = {limit}"
            place = f"evaluation.{name}.max_tokens"
            yield Problem(place, str(section.max_tokens), rule, "lower it or raise max_model_len", "WRPO-C020")


def wanted_packages(lm_eval: LmEvalConfig | None) -> Iterator[tuple[str, str, str, str]]:
    """Yield field, value, module and extra, as preflight.packages does."""
    if lm_eval is not None:
        yield "evaluation.lm_eval.tasks", ", ".join(lm_eval.tasks), "lm_eval", "lm-eval"
