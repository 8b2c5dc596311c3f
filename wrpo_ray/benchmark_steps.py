"""The steps that evaluation has beside comparing rewards: benchmark answers, the safety slice, and lm-eval.

questions ─► sample (each model) ─► evaluation-benchmarks                             named evaluation-benchmark-...
questions ─► sample (each model) ─► 2-questions ─► 2-sample ─► evaluation-benchmarks  named evaluation-mt-bench-...
prompts ─► sample (each model) ─► evaluation-safety                                   named evaluation-safety-...
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
from wrpo_ray.config import PromptsConfig, SamplingConfig, SourceConfig
from wrpo_ray.config_benchmarks import BenchmarksConfig, LmEvalConfig, SafetyConfig
from wrpo_ray.config_evaluation_rules import answering_sources
from wrpo_ray.evaluate import answer_formats
from wrpo_ray.evaluate.answer_formats import Answer, file_of
from wrpo_ray.evaluate.lm_eval_steps import ROWS_FILE, lm_eval_tasks
from wrpo_ray.evaluate.refusals import safety
from wrpo_ray.evaluate.second_turns import collected, first_responses, write_second_turns
from wrpo_ray.evaluate.step_builder import EvaluationBuilder
from wrpo_ray.prompt_temperatures import with_temperatures
from wrpo_ray.prompts import PromptSet, load_prompts
from wrpo_ray.steps import Step, StepResult, digest
from wrpo_ray.storage.location import Location, json_bytes
from wrpo_ray.storage.manifest import FileEntry, require_manifest
from wrpo_ray.storage.tables import verified_bytes, write_file

SAFETY_FILE = "safety.json"
_MAX_NAMED = 20
_Model = tuple[SourceConfig, Step | None]


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
    builder: EvaluationBuilder,
    benchmarks: BenchmarksConfig | None,
    safety_section: SafetyConfig | None,
    lm_eval: LmEvalConfig | None,
) -> Further:
    """Add the steps of the sections that are there; raises DataError when questions or prompts cannot be read."""
    if benchmarks is not None:
        benchmark_answers(builder, benchmarks, load_questions(benchmarks))
    refusals = safety_slice(builder, safety_section) if safety_section is not None else None
    return Further(refusals, lm_eval_tasks(builder, lm_eval) if lm_eval is not None else ())


def benchmark_answers(builder: EvaluationBuilder, section: BenchmarksConfig, questions: Sequence[Question]) -> Step:
    """Add the steps that answer `questions`, and return the one that writes them in the benchmarks' formats."""
    given: list[tuple[SourceConfig, Step | None]] = [*builder.models]
    given += [(source, None) for source in answering_sources(builder.config)]
    models = [(_greedy(model, section), trained_by) for model, trained_by in given]
    one, two = ([question for question in questions if len(question.turns) == count] for count in (1, 2))
    drawn = list(zip(_one_turn(builder, section, models, one), _two_turns(builder, section, models, two), strict=True))
    run_name = builder.config.run.name
    names = [f"{run_name}-{model.name}" for model, _ in models]

    def run(folder: Location) -> StepResult:
        answered = {}
        for name, of_model in zip(names, drawn, strict=True):
            found = [
                collected(asked, [first_responses(builder.folder(step)) for step in steps])
                for asked, steps in zip((one, two), of_model, strict=True)
            ]
            answered[name] = ([*found[0][0], *found[1][0]], [*found[0][1], *found[1][1]])
        files = [entry for name, (answers, _) in answered.items() for entry in _write(folder, name, answers)]
        return StepResult(tuple(files), {"models": {name: _counts(*found) for name, found in answered.items()}})

    identity = {"run": run_name, "questions": digest([_identity(question) for question in questions])}
    inputs = tuple(step for of_model in drawn for steps in of_model for step in steps)
    return builder.add(Step("evaluation-benchmarks", identity, inputs, run))


def _greedy(model: SourceConfig, section: BenchmarksConfig) -> SourceConfig:
    """Return the model as it answers questions that ask for no temperature of their own."""
    temperature = section.temperature or 0.0
    sampling = SamplingConfig(num_samples=1, temperature=temperature, top_p=1.0, max_tokens=section.max_tokens)
    return model.model_copy(update={"sampling": sampling})


def _one_turn(
    builder: EvaluationBuilder, section: BenchmarksConfig, models: Sequence[_Model], questions: Sequence[Question]
) -> list[tuple[Step, ...]]:
    """Add the steps that answer questions of one turn, and return those with the answers, by model."""
    if not questions:
        return [() for _ in models]
    prompts = _questions(builder, "evaluation-benchmark-questions", section, questions)
    return [
        (builder.sample(f"evaluation-benchmark-sample-{model.name}", model, prompts, trained_by),)
        for model, trained_by in models
    ]


def _two_turns(
    builder: EvaluationBuilder, section: BenchmarksConfig, models: Sequence[_Model], questions: Sequence[Question]
) -> list[tuple[Step, ...]]:
    """Add the steps that answer both turns of questions, and return those with the answers, by model.

    They are apart from the others: a question that another benchmark asks too has another temperature here.
    """
    if not questions:
        return [() for _ in models]
    prompts = _questions(builder, "evaluation-mt-bench-questions", section, questions)
    identity = {"questions": digest([_identity(question) for question in questions])} | _own(section, questions)

    def both(model: SourceConfig, trained_by: Step | None) -> tuple[Step, ...]:
        first = builder.sample(f"evaluation-mt-bench-sample-{model.name}", model, prompts, trained_by)

        def run(folder: Location) -> StepResult:
            return write_second_turns(
                questions, builder.folder(first), folder, own_temperatures=section.temperature is None
            )

        name = f"evaluation-mt-bench-2-questions-{model.name}"
        second = builder.add(Step(name, identity, (first,), run))
        return first, builder.sample(f"evaluation-mt-bench-2-sample-{model.name}", model, second, trained_by)

    return [both(model, trained_by) for model, trained_by in models]


def _questions(builder: EvaluationBuilder, name: str, section: BenchmarksConfig, questions: Sequence[Question]) -> Step:
    """Add the prompts step of the first turns, with the temperatures that the questions ask for."""
    loaded, own = first_turns(questions), _own(section, questions)

    def run(folder: Location) -> StepResult:
        return with_temperatures(loaded.write(folder), folder, own.get("temperatures", {}))

    return builder.add(Step(name, {"content": loaded.prompts.content} | own, (), run))


def _own(section: BenchmarksConfig, questions: Sequence[Question]) -> dict[str, Mapping[str, float]]:
    """Return the temperatures by prompt_id as a part of an identity; nothing where one is set for all, or all are 0."""
    own = {question.prompt_id: question.temperature for question in questions}
    return {"temperatures": own} if section.temperature is None and any(own.values()) else {}


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


def safety_slice(builder: EvaluationBuilder, section: SafetyConfig) -> Step:
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


def _prompts(builder: EvaluationBuilder, name: str, loaded: PromptSet) -> Step:
    return builder.add(Step(name, {"content": loaded.prompts.content}, (), loaded.write))


def _read_json(folder: Location, name: str) -> Any:
    entries: Mapping[str, FileEntry] = {entry.path: entry for entry in require_manifest(folder).files}
    return json.loads(verified_bytes(folder, entries[name]))
