"""Checks of what evaluation does beside comparing rewards: files that are read, tokens that must fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

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


def check_lm_eval(target: ModelConfig, section: LmEvalConfig | None) -> Iterator[Problem]:
    """Yield a problem for tasks that are not there, and for a target that one process cannot hold."""
    if section is None:
        return
    path = section.include_path
    if path is not None and not Path(path).expanduser().is_dir():
        rule = "no such folder: it holds the tasks as YAML files"
        yield Problem("evaluation.lm_eval.include_path", path, rule, "correct the path", "WRPO-C090")
    if target.resources.num_nodes > 1:
        rule = "must be 1 with evaluation.lm_eval, which works in one process"
        fix = "give the target one node, or run lm-eval on the exported models"
        yield Problem("target.resources.num_nodes", str(target.resources.num_nodes), rule, fix, "WRPO-C016")


def wanted_packages(lm_eval: LmEvalConfig | None) -> Iterator[tuple[str, str, str, str]]:
    """Yield field, value, module and extra, as preflight.packages does."""
    if lm_eval is not None:
        yield "evaluation.lm_eval.tasks", ", ".join(lm_eval.tasks), "lm_eval", "lm-eval"
