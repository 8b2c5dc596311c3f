"""The steps that evaluation has beside comparing rewards: benchmark answers, the safety slice, and lm-eval.

questions ─► sample (each model) ─► turn-2 ─► sample-2 ─► evaluation-benchmarks     all named evaluation-benchmark-...
prompts ─► sample (each model) ─► evaluation-safety                                 all named evaluation-safety-...
evaluation-lm-eval-<model>

The second turn of a question holds the model's own first answer, so it is a step of prompts that the first turn's
sampling step makes, and a sampling step of its own: two passes, the engine as in every other step.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from wrpo_ray.benchmark_questions import BENCHMARKS, Question, first_turns, load_questions
from wrpo_ray.config import ModelConfig, PromptsConfig, SamplingConfig
from wrpo_ray.config_benchmarks import BenchmarksConfig, LmEvalConfig, SafetyConfig
from wrpo_ray.evaluate import answer_formats
from wrpo_ray.evaluate.answer_formats import Answer, file_of
from wrpo_ray.evaluate.lm_eval_steps import ROWS_FILE, lm_eval_tasks
from wrpo_ray.evaluate.refusals import safety
from wrpo_ray.evaluate.second_turns import collected, first_responses, write_second_turns
from wrpo_ray.evaluate.step_builder import Builder
from wrpo_ray.prompts import PromptSet, load_prompts
from wrpo_ray.steps import Step, StepResult, digest
from wrpo_ray.storage.location import Location, json_bytes
from wrpo_ray.storage.manifest import FileEntry, require_manifest
from wrpo_ray.storage.tables import verified_bytes, write_file

SAFETY_FILE = "safety.json"
_MAX_NAMED = 20


@dataclass(frozen=True)
class Further:
    """The steps whose results belong into evaluation.json: inputs of the `evaluate` step."""

    safety: Step | None = None
    lm_eval: tuple[Step, ...] = field(default=())

    @property
    def inputs(self) -> tuple[Step, ...]:
        return (*([self.safety] if self.safety else []), *self.lm_eval)

    def results(self, folder: Callable[[Step], Location]) -> dict[str, Any]:
        """Return the values of `safety` and `benchmarks` in evaluation.json, from the finished steps."""
        rows = [row for step in self.lm_eval for row in _read_json(folder(step), ROWS_FILE)]
        return {
            "safety": _read_json(folder(self.safety), SAFETY_FILE) if self.safety else None,
            "benchmarks": rows if self.lm_eval else None,
        }


def further_steps(
    builder: Builder,
    benchmarks: BenchmarksConfig | None,
    safety_section: SafetyConfig | None,
    lm_eval: LmEvalConfig | None,
) -> Further:
    """Add the steps of the sections that are there; raises DataError when questions or prompts cannot be read."""
    if benchmarks is not None:
        benchmark_answers(builder, benchmarks, load_questions(benchmarks))
    refusals = safety_slice(builder, safety_section) if safety_section is not None else None
    return Further(refusals, lm_eval_tasks(builder, lm_eval) if lm_eval is not None else ())


def benchmark_answers(builder: Builder, section: BenchmarksConfig, questions: Sequence[Question]) -> Step:
    """Add the steps that answer `questions`, and return the one that writes them in the benchmarks' formats."""
    prompts = _prompts(builder, "evaluation-benchmark-questions", first_turns(questions))
    sampling = SamplingConfig(num_samples=1, temperature=section.temperature, top_p=1.0, max_tokens=section.max_tokens)
    drawn = [
        _both_turns(builder, model, trained_by, sampling, prompts, questions) for model, trained_by in builder.models
    ]
    names = [f"{builder.run_name}-{model.name}" for model, _ in builder.models]

    def run(folder: Location) -> StepResult:
        answered = {
            name: collected(questions, [first_responses(builder.folder(step)) for step in steps])
            for name, steps in zip(names, drawn, strict=True)
        }
        files = [entry for name, (answers, _) in answered.items() for entry in _write(folder, name, answers)]
        return StepResult(tuple(files), {"models": {name: _counts(*found) for name, found in answered.items()}})

    identity = {"run": builder.run_name, "questions": digest([_identity(question) for question in questions])}
    inputs = tuple(step for steps in drawn for step in steps)
    return builder.add(Step("evaluation-benchmarks", identity, inputs, run))


def _both_turns(
    builder: Builder, model: ModelConfig, trained_by: Step | None, sampling: SamplingConfig, prompts: Step,
    questions: Sequence[Question],
) -> tuple[Step, ...]:  # fmt: skip
    """Add the sampling steps of one model: of the first turns, and of the second ones where questions have them."""
    model = model.model_copy(update={"sampling": sampling})
    first = builder.sample(f"evaluation-benchmark-sample-{model.name}", model, prompts, trained_by)
    two_turns = [question for question in questions if len(question.turns) == 2]
    if not two_turns:
        return (first,)

    def run(folder: Location) -> StepResult:
        return write_second_turns(two_turns, builder.folder(first), folder)

    identity = {"questions": digest([_identity(question) for question in two_turns])}
    second = builder.add(Step(f"evaluation-benchmark-turn-2-{model.name}", identity, (first,), run))
    return first, builder.sample(f"evaluation-benchmark-sample-2-{model.name}", model, second, trained_by)


def _write(folder: Location, model: str, answers: Sequence[Answer]) -> list[FileEntry]:
    """Write a model's answers, one file for each benchmark that has some."""
    now_s, files = time.time(), []
    for benchmark in BENCHMARKS:
        own = [answer for answer in answers if answer.question.benchmark == benchmark]
        if not own:
            continue
        if benchmark == "alpaca_eval":
            content = json_bytes(answer_formats.alpaca_eval(model, own))
        else:
            rows = getattr(answer_formats, benchmark)(model, own, now_s)
            content = b"".join(answer_formats.line(row) for row in rows)
        files.append(write_file(folder, file_of(benchmark, model), content))
    return files


def _counts(answers: Sequence[Answer], missing: Sequence[Question]) -> dict[str, Any]:
    counts = {benchmark: sum(answer.question.benchmark == benchmark for answer in answers) for benchmark in BENCHMARKS}
    named = [f"{question.benchmark} {question.prompt_id}" for question in missing[:_MAX_NAMED]]
    return {
        "num_answers": {benchmark: count for benchmark, count in counts.items() if count},
        "num_questions_without_answer": len(missing),
        "questions_without_answer": named,
    }


def _identity(question: Question) -> list[Any]:
    return [question.benchmark, question.key, list(question.turns), question.dataset]


def safety_slice(builder: Builder, section: SafetyConfig) -> Step:
    """Add the steps that answer harmful requests, and return the one that counts refusals."""
    prompts = _prompts(builder, "evaluation-safety-prompts", load_prompts(safety_prompts(section)))
    sampling = SamplingConfig(num_samples=1, temperature=section.temperature, top_p=1.0, max_tokens=section.max_tokens)
    drawn = {
        model.name: builder.sample(
            f"evaluation-safety-sample-{model.name}",
            model.model_copy(update={"sampling": sampling}),
            prompts,
            trained_by,
        )
        for model, trained_by in builder.models
    }
    first, *_, last = drawn

    def run(folder: Location) -> StepResult:
        answers = {
            name: {row.prompt_id: row.text for row in first_responses(builder.folder(step)).values()}
            for name, step in drawn.items()
        }
        found = safety(answers, first, last, section.num_bootstrap, builder.seed)
        return StepResult((write_file(folder, SAFETY_FILE, json_bytes(found)),), found)

    identity = {"num_bootstrap": section.num_bootstrap, "seed": builder.seed}
    return builder.add(Step("evaluation-safety", identity, tuple(drawn.values()), run))


def safety_prompts(section: SafetyConfig) -> PromptsConfig:
    """Return where the harmful requests are read."""
    return PromptsConfig(path=section.prompts, column=section.column)


def _prompts(builder: Builder, name: str, loaded: PromptSet) -> Step:
    return builder.add(Step(name, {"content": loaded.prompts.content}, (), loaded.write))


def _read_json(folder: Location, name: str) -> Any:
    entries: Mapping[str, FileEntry] = {entry.path: entry for entry in require_manifest(folder).files}
    return json.loads(verified_bytes(folder, entries[name]))
