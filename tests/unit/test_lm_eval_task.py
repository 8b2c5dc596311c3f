"""lm-eval on a tiny random model, with a task of the test's own; what it prints becomes rows of evaluation.json."""

import json
from functools import partialmethod
from pathlib import Path

import pytest

from tests.tiny import chatml_tokenizer, save_llama
from wrpo_ray.config import EngineConfig, ModelConfig
from wrpo_ray.config_benchmarks import LmEvalConfig
from wrpo_ray.errors import ConfigError
from wrpo_ray.evaluate.lm_eval_task import LmEvalJob, benchmark_rows, include_digest, run_tasks

TaskManager = pytest.importorskip("lm_eval.tasks").TaskManager

CHOICE = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{data}"}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: ["Paris", "Rome"]
doc_to_target: answer
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""
WRITTEN = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{data}"}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "Paris"
generation_kwargs: {{until: ["."], max_gen_toks: 4, do_sample: false}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""


def write_tasks(folder: Path) -> str:
    """Write two tasks, one with choices and one with written answers, and their data."""
    folder.mkdir()
    data = folder / "data.jsonl"
    rows = [{"question": "What is the capital of France?", "answer": number % 2} for number in range(4)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for name, text in (("own_choice", CHOICE), ("own_written", WRITTEN)):
        (folder / f"{name}.yaml").write_text(text.format(name=name, data=data), encoding="utf-8")
    return str(folder)


def job(folder: Path, model: Path, **fields: object) -> LmEvalJob:
    """Return one of both tasks on the model in a folder."""
    given = {"tasks": ("own_choice", "own_written"), "backend": "hf", "batch_size": 2, **fields}
    section = LmEvalConfig(include_path=write_tasks(folder / "tasks"), **given)  # type: ignore[arg-type]
    engine = EngineConfig(dtype="float32", max_model_len=128, max_num_batched_tokens=512, max_num_seqs=8)
    return LmEvalJob(ModelConfig(name="target", path=str(model), engine=engine), section, 0.0, 7)


def check(rows: list[dict[str, object]]) -> None:
    """Answers 0 and 1 take turns and the model gives all questions the same: half of them are right."""
    assert [(row["model"], row["task"], row["metric"]) for row in rows] == [
        ("target", "own_choice", "acc"), ("target", "own_written", "exact_match"),
    ]  # fmt: skip
    assert [row["value"] for row in rows] == [0.5, 0.0]
    assert rows[0]["stderr"] == pytest.approx((0.25 / 3) ** 0.5, rel=1e-6)


def test_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    model = save_llama(tmp_path / "model", chatml_tokenizer())
    found = run_tasks(job(tmp_path, model, apply_chat_template=True))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    check(benchmark_rows("target", found))


@pytest.mark.slow
def test_vllm(tmp_path: Path) -> None:
    model = save_llama(tmp_path / "model", chatml_tokenizer())
    check(benchmark_rows("target", run_tasks(job(tmp_path, model, backend="vllm", batch_size="auto"))))


@pytest.fixture
def own_tasks_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the harness's own tasks out: to index them takes seconds."""
    monkeypatch.setattr(TaskManager, "__init__", partialmethod(TaskManager.__init__, include_defaults=False))


@pytest.mark.usefixtures("own_tasks_only")
def test_a_task_that_there_is_none_of(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no task called nonsense") as caught:
        run_tasks(job(tmp_path, tmp_path, tasks=("own_choice", "nonsense")))
    assert caught.value.code == "WRPO-C090"


@pytest.mark.usefixtures("own_tasks_only")
def test_data_that_cannot_be_read(tmp_path: Path) -> None:
    given = job(tmp_path, tmp_path, tasks=("own_choice",))
    (tmp_path / "tasks" / "data.jsonl").unlink()
    with pytest.raises(ConfigError, match="the data of own_choice cannot be read") as caught:
        run_tasks(given)
    assert caught.value.code == "WRPO-C091"


def test_rows_of_what_the_harness_prints() -> None:
    """As gsm8k and mmlu are printed: filters, a group without a standard error, and names that are no metrics."""
    printed = {
        "gsm8k": {
            "alias": "gsm8k", "sample_len": 1319, "exact_match,strict-match": 0.5,
            "exact_match_stderr,strict-match": 0.01, "exact_match,flexible-extract": 0.6,
            "exact_match_stderr,flexible-extract": 0.02,
        },
        "mmlu": {"acc,none": 0.25, "acc_stderr,none": "N/A", "alias": "mmlu"},
    }  # fmt: skip
    assert benchmark_rows("fused", {"results": printed}) == [
        {"model": "fused", "task": "gsm8k", "metric": "exact_match,strict-match", "value": 0.5, "stderr": 0.01},
        {"model": "fused", "task": "gsm8k", "metric": "exact_match,flexible-extract", "value": 0.6, "stderr": 0.02},
        {"model": "fused", "task": "mmlu", "metric": "acc", "value": 0.25, "stderr": None},
    ]


def test_tasks_of_ones_own_are_told_by_their_content(tmp_path: Path) -> None:
    folder = write_tasks(tmp_path / "tasks")
    before = include_digest(folder)
    assert include_digest(folder) == before
    assert include_digest(None) is None
    (tmp_path / "tasks" / "data.jsonl").write_text("{}\n", encoding="utf-8")
    assert include_digest(folder) != before
