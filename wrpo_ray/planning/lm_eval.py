"""What lm-eval's tasks take: questions of the tasks that are known here, an assumed number of any other's.

Numbers of questions are those of the splits that the harness's tasks read, by the cards of the data sets (openai/gsm8k,
cais/mmlu, Rowan/hellaswag, allenai/ai2_arc, winogrande, piqa, google/IFEval). Lengths are rough: English at four
bytes a token. Every choice is read as a request of its own, which is an upper bound: engines keep what they share.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from wrpo_ray.config import ResourcesConfig
from wrpo_ray.config_benchmarks import LmEvalConfig
from wrpo_ray.config_planning import PlanningConfig
from wrpo_ray.planning.generation import PREFILL_EFFICIENCY, Engine, Requests, generation
from wrpo_ray.planning.passes import forward_flops
from wrpo_ray.planning.schedule import Job
from wrpo_ray.planning.stage import Stage, bound_of


@dataclass(frozen=True)
class Task:
    """A task: its questions, the answers to choose from for each (0: written ones), lengths in tokens, its own shots.

    num_parts: tasks that it is a group of; evaluation.lm_eval.limit counts for each.
    """

    num_questions: int
    num_choices: int
    question_tokens: float
    answer_tokens: float
    num_fewshot: int = 0
    num_parts: int = 1


TASKS = {
    "gsm8k": Task(1319, 0, 75, 130, num_fewshot=5),
    "mmlu": Task(14_042, 4, 120, 1, num_parts=57),
    "hellaswag": Task(10_042, 4, 60, 30),
    "arc_challenge": Task(1172, 4, 30, 6),
    "arc_easy": Task(2376, 4, 25, 5),
    "winogrande": Task(1267, 2, 15, 10),
    "piqa": Task(1838, 2, 15, 20),
    "ifeval": Task(541, 0, 60, 500),
}
_OTHER = Task(0, 4, 100, 10)


class _Load(NamedTuple):
    """Requests, and their tokens read and written."""

    requests: float
    input_tokens: float
    output_tokens: float


def planned_tasks(section: LmEvalConfig, planning: PlanningConfig) -> dict[str, Task]:
    """Return the tasks as they are planned: with as many questions as `limit` leaves, and examples as asked for."""
    return {name: _planned(TASKS.get(name), section, planning) for name in section.tasks}


def _planned(known: Task | None, section: LmEvalConfig, planning: PlanningConfig) -> Task:
    task = known or replace(_OTHER, num_questions=planning.lm_eval_questions)
    questions = task.num_questions if section.limit is None else min(task.num_questions, section.limit * task.num_parts)
    shots = task.num_fewshot if section.num_fewshot is None else section.num_fewshot
    return replace(task, num_questions=questions, num_fewshot=shots)


def told(section: LmEvalConfig | None, planning: PlanningConfig) -> Iterator[str]:
    """Yield what the plan assumes of the tasks, as one sentence; nothing without a section."""
    if section is None:
        return
    of_tasks = planned_tasks(section, planning).items()
    named = [
        f"{task.num_questions:,} of {name}{'' if name in TASKS else ' (planning.lm_eval_questions)'}"
        for name, task in of_tasks
    ]
    yield f"lm-eval: questions {', '.join(named)}"


def _load(task: Task) -> _Load:
    prompt = (task.num_fewshot + 1) * task.question_tokens + task.num_fewshot * task.answer_tokens
    if not task.num_choices:
        return _Load(task.num_questions, task.num_questions * prompt, task.num_questions * task.answer_tokens)
    requests = task.num_questions * task.num_choices
    return _Load(requests, requests * (prompt + task.answer_tokens), 0.0)


def lm_eval_stage(
    step: str, section: LmEvalConfig, planning: PlanningConfig, engine: Engine, accelerator: str,
    resources: ResourcesConfig, start_s: float, after: tuple[str, ...],
) -> Stage:  # fmt: skip
    """Return the stage of one model: one process, however many replicas the model may have elsewhere."""
    loads = [_load(task) for task in planned_tasks(section, planning).values()]
    gpu_seconds = flops = 0.0
    bound = None
    for load in loads:
        if load.output_tokens:
            lengths = (load.input_tokens / load.requests, load.output_tokens / load.requests)
            made = generation(engine, Requests(load.requests, 1, *lengths))
            gpu_seconds, flops, bound = gpu_seconds + made.gpu_seconds, flops + made.flops, bound or made.bound
        else:
            reading = forward_flops(engine.active_parameters, load.input_tokens)
            gpu_seconds, flops = gpu_seconds + reading / (engine.flops * PREFILL_EFFICIENCY), flops + reading
    gpus = resources.num_gpus or resources.num_cpus
    job = Job(step, accelerator, gpus, gpu_seconds, start_s=start_s, after=after)
    requests, tokens_in, tokens_out = (sum(numbers) for numbers in zip(*loads, strict=True))
    return Stage("sampling", job, requests, tokens_in, tokens_out, flops, bound_of(job, bound or "compute"))
