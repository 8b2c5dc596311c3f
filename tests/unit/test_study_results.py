"""Numbers of a study's table against ones worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.study_doubles import write_base
from wrpo_ray.config_file import load_config
from wrpo_ray.storage.location import locate
from wrpo_ray.storage.manifest import Manifest
from wrpo_ray.study.load import StudyRun
from wrpo_ray.study.results import Counter, RunResult, StepUse, _hours, counters, evaluation_cells
from wrpo_ray.study.table import counters_text, kind_of, results_csv, results_json


def use(name: str, seconds: float = 0.0, made_by: str | None = None) -> StepUse:
    manifest = Manifest(name, "f", {}, {}, (), {}, {}, seconds)
    return StepUse(name, "f", manifest, locate("/nowhere"), made_by)


def test_rewards_as_the_run_writes_them_now() -> None:
    told = {"models": {"fused": {"reward": {"mean": 1.5, "low": 1.0, "high": 2.0}}}, "num_prompts": 3}
    assert dict(evaluation_cells(told)) == {"reward/fused": 1.5, "reward_low/fused": 1.0, "reward_high/fused": 2.0}


def test_the_whole_evaluation() -> None:
    pair = {"model": "fused", "baseline": "t", "judged_by": "judge", "win_rate": 0.6, "low": 0.5, "high": 0.7}
    told = {
        "format": 1,
        "models": [{"name": "fused", "mean_reward": 1.5, "reward_low": 1.0, "reward_high": 2.0, "mean_tokens": 7.0}],
        "pairs": [pair | {"length_controlled_win_rate": None}],
        "safety": {"models": [{"name": "fused", "refusal_rate": 0.25}]},
        "benchmarks": [{"model": "fused", "task": "gsm8k", "metric": "acc", "value": 0.5, "stderr": 0.1}],
    }
    assert dict(evaluation_cells(told)) == {
        "reward/fused": 1.5, "reward_low/fused": 1.0, "reward_high/fused": 2.0, "tokens/fused": 7.0,
        "win_rate/judge/fused/t": 0.6, "win_rate_low/judge/fused/t": 0.5, "win_rate_high/judge/fused/t": 0.7,
        "length_controlled_win_rate/judge/fused/t": None, "refusal_rate/fused": 0.25, "gsm8k/acc/fused": 0.5,
    }  # fmt: skip
    assert dict(evaluation_cells({"format": 1, "models": [], "pairs": [], "safety": None, "benchmarks": None})) == {}


def test_hours_are_wall_time_times_replicas_or_workers(tmp_path: Path) -> None:
    write_base(tmp_path, 2)
    config = load_config(
        tmp_path / "base.yaml",
        [
            "target.resources={num_gpus: 2, num_replicas: 3}", "target.engine.tensor_parallel_size=2",
            "wrpo.num_workers=4", "wrpo.num_gpus_per_worker=1",
        ],
    )  # fmt: skip
    steps = [use("sample-target-sft", 3600, "other"), use("wrpo", 1800), use("sample-s0", 3600), use("fuse", 9e9)]
    # 6 GPUs for an hour, read; 4 for half an hour, made; half a CPU for an hour, made.
    assert dict(_hours(config, steps)) == pytest.approx(
        {"gpu_hours": 2.0, "gpu_hours_alone": 8.0, "cpu_hours": 0.5, "cpu_hours_alone": 0.5}
    )
    without = load_config(tmp_path / "base.yaml", ["ablation.skip_sft=true"])
    assert dict(_hours(without, [use("sft", 3600)]))["cpu_hours"] == 0
    assert dict(_hours(load_config(tmp_path / "base.yaml"), [use("sft", 3600)]))["cpu_hours"] == 1


def test_hours_are_of_the_replicas_of_the_model_that_answers(tmp_path: Path) -> None:
    write_base(tmp_path, 2)
    judge = "{name: judge, base_url: 'https://api.example.com/v1', model: m, num_cpus: 0.5}"
    config = load_config(
        tmp_path / "base.yaml",
        [
            "sources.0={name: a-score-b, path: org/model, resources: {num_gpus: 1, num_replicas: 5}}",
            "target.resources={num_gpus: 1, num_replicas: 3}", "evaluation.prompts.path=p",
            "evaluation.sampling.max_tokens=8", "evaluation.sources=all", f"evaluation.judge={judge}",
        ],
    )  # fmt: skip

    def hours(step: str) -> tuple[float, float]:
        found = dict(_hours(config, [use(step, 3600)]))
        return float(found["gpu_hours"] or 0), float(found["cpu_hours"] or 0)

    # A source may have the word of another kind of step in its name.
    assert hours("sample-a-score-b") == hours("evaluation-sample-a-score-b") == (5.0, 0.0)
    assert hours("evaluation-sample-fused") == (3.0, 0.0)
    # One process asks, however many replicas the target has.
    assert hours("evaluation-judge") == (0.0, 0.5)


def test_counters_and_files(tmp_path: Path) -> None:
    write_base(tmp_path, 1)
    config = load_config(tmp_path / "base.yaml")
    runs = [StudyRun("a", {}, config), StudyRun("b", {"wrpo.beta": 0.5}, config)]
    row = {"run": "a", "error": "", "steps_made": 2, "steps_read": 0, "train/loss": float("nan")}
    results = [
        RunResult(runs[0], "complete", (use("sample-s0"), use("wrpo")), row),
        RunResult(runs[1], "failed", (use("sample-s0", made_by="st-a"),), {**row, "run": "b", "error": "no, nothing"}),
    ]
    assert counters(results) == [Counter("sample-s0", "f", 1, 1), Counter("wrpo", "f", 1, 0)]
    assert counters_text(counters(results)).splitlines()[1].split() == ["sampling", "1", "1", "1"]
    assert results_csv(results) == (
        "run,status,error,steps_made,steps_read,train/loss,wrpo.beta\n"
        'a,complete,,2,0,nan,\nb,failed,"no, nothing",2,0,nan,0.5\n'
    )
    assert results_json("st", results)["runs"][0]["numbers"]["train/loss"] is None


@pytest.mark.parametrize(
    ("step", "kind"),
    [
        ("sample-a", "sampling"), ("first-sample-a", "sampling"), ("evaluation-sample-fused", "sampling"),
        ("score-a", "scoring"), ("evaluation-score", "scoring"), ("sft", "SFT"), ("select_sft", None), ("fuse", None),
        ("wrpo", "preference training"), ("evaluate", None),
    ],
)  # fmt: skip
def test_kinds_of_steps(step: str, kind: str | None) -> None:
    assert kind_of(step) == kind
