"""The steps that run lm-eval: one process for each model, with the target's resources.

<step>/results.json      what the harness said, without its samples
<step>/benchmarks.json   rows of model, task, metric, value, stderr
"""

from __future__ import annotations

from typing import Any

from wrpo_ray.claims import EXPECTED, Claim, current_grant
from wrpo_ray.config import ModelConfig, ResourcesConfig
from wrpo_ray.config_benchmarks import LmEvalConfig
from wrpo_ray.evaluate.lm_eval_task import LmEvalJob, benchmark_rows, include_digest, run_tasks
from wrpo_ray.evaluate.step_builder import EvaluationBuilder
from wrpo_ray.models import model_identity
from wrpo_ray.steps import Step, StepResult
from wrpo_ray.storage.location import Location, json_bytes
from wrpo_ray.storage.manifest import verify_files
from wrpo_ray.storage.tables import write_file
from wrpo_ray.train.one_task import in_one_task
from wrpo_ray.versions import ENGINE, installed

RESULTS_FILE, ROWS_FILE = "results.json", "benchmarks.json"
# What changes how fast it is, not what it measures; tasks below include_path count by their content.
_EXECUTION_FIELDS = {"batch_size", "include_path"}


def lm_eval_tasks(builder: EvaluationBuilder, section: LmEvalConfig) -> tuple[Step, ...]:
    """Add the steps that run lm-eval, one for each model, and return them."""
    return tuple(_lm_eval(builder, section, model, trained_by) for model, trained_by in builder.models)


def _lm_eval(builder: EvaluationBuilder, section: LmEvalConfig, model: ModelConfig, trained_by: Step | None) -> Step:
    resources = model.resources
    libraries = ("lm_eval", "torch", "transformers", *(ENGINE if section.backend == "vllm" else ()))
    identity = {
        "model": {"step": trained_by.fingerprint} if trained_by else model_identity(model),
        "lm_eval": section.model_dump(mode="json", exclude=_EXECUTION_FIELDS),
        "include": include_digest(section.include_path),
        "engine": model.engine.model_dump(mode="json", include={"dtype", "max_model_len", "quantization"}),
        "seed": builder.seed,
        "versions": installed(libraries),
    }

    def run(folder: Location) -> StepResult:
        if trained_by:
            verify_files(builder.folder(trained_by), "model")
        job = LmEvalJob(model, section, resources.num_gpus, builder.seed)
        options = _task_options(resources) | _place_option()
        found = in_one_task(run_tasks, job, folder, resources.num_cpus, "lm-eval", options)
        rows = benchmark_rows(model.name, found)
        files = (
            write_file(folder, RESULTS_FILE, json_bytes(found)),
            write_file(folder, ROWS_FILE, json_bytes(rows)),
        )
        return StepResult(files, {"benchmarks": rows})

    # One process, however many replicas the target may have.
    claim = Claim(resources.num_cpus, resources.num_gpus, resources.accelerator_type)
    inputs = (trained_by,) if trained_by else ()
    return builder.add(Step(f"evaluation-lm-eval-{model.name}", identity, inputs, run, claim=claim))


def _task_options(resources: ResourcesConfig) -> dict[str, Any]:
    """Return Ray's options: the process ends with the task, so that what the model took is given back."""
    options: dict[str, Any] = {"num_gpus": resources.num_gpus, "max_calls": 1}
    if resources.env_vars:
        options["runtime_env"] = {"env_vars": dict(resources.env_vars)}
    if resources.accelerator_type:
        options["accelerator_type"] = resources.accelerator_type
    return options


def _place_option() -> dict[str, Any]:
    """Return Ray's option for the node that the scheduler has kept for this step; none where it left that open."""
    grant = current_grant()
    place = grant.start() if grant is not None and grant.num_to_start() else ()
    if not place or place[0].startswith(EXPECTED):
        return {}
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # As replicas of a pool: elsewhere at once when the node is gone or full.
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(place[0], soft=True, _spill_on_unavailable=True)}
