"""`wrpo-ray evaluate RUN`, and what a run prints at its end."""

import json
from pathlib import Path
from typing import Any

import pytest

from wrpo_ray.cli import main
from wrpo_ray.evaluate.pair_entries import pair_entries
from wrpo_ray.evaluate.pairwise import Compared, Outcome
from wrpo_ray.evaluation_command import render
from wrpo_ray.model_card import evaluation_section
from wrpo_ray.steps import Step, StepResult, execute
from wrpo_ray.storage.location import Location, json_bytes, locate
from wrpo_ray.storage.manifest import Manifest, RunLayout
from wrpo_ray.storage.tables import write_file
from wrpo_ray.submissions import record, submission
from wrpo_ray.summary import run_summary


def entries() -> list[dict[str, Any]]:
    won = {f"p{number}": Outcome(float(number < 30), float(number)) for number in range(40)}
    pairs = [
        Compared("fused", "target-sft", "judge", won, {"q": "cut at max_tokens"}, 0.25),
        Compared("fused", "source", "reward", {}),
    ]
    return pair_entries(pairs, 100, 1)


def found() -> dict[str, Any]:
    rewards = {"mean_reward": 0.5, "reward_low": 0.4, "reward_high": 0.6}
    models = [
        {"name": "fused", "num_answers": 80, "mean_tokens": 12.5, **rewards},
        {"name": "source", "num_answers": 0, "mean_tokens": None, **dict.fromkeys(rewards)},
    ]
    return {"format": 1, "models": models, "pairs": entries(), "safety": None, "benchmarks": None}


def run_with(folder: Path, written: dict[str, Any] | None) -> str:
    layout = RunLayout(locate(folder / "run"))

    def make(place: Location) -> StepResult:
        return StepResult((write_file(place, "evaluation.json", json_bytes(written)),), {})

    step = Step("evaluate", {}, (), make)
    record(layout.submissions, submission(1, {}, [step], {}, layout=layout))
    if written is not None:
        execute(step, layout, {})
    return str(folder / "run")


def test_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_with(tmp_path, found())
    assert main(["evaluate", run]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "fused 80 12.5 0.500 [0.400, 0.600]" in lines
    assert "source 0" in lines
    first = entries()[0]
    assert any(line.startswith("fused target-sft judge 30 0 10 75.0% [") for line in lines)
    bias = "; position bias +0.25 (for the answer shown first)"
    assert f"by judge: {first['words']}{bias}" in lines
    assert lines[-1] == "by reward: fused and source cannot be compared: no prompt was decided"
    # Evaluations of older versions have no p-values.
    older = found()
    for pair in older["pairs"]:
        del pair["p_value"], pair["p_value_corrected"]
    assert f"by judge: {first['words']}{bias}" in render(older)
    assert main(["evaluate", run, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == found()


@pytest.mark.parametrize(
    ("written", "rule"),
    [
        (None, "has not finished its evaluation: to do"),
        ({"models": {}}, "is of an older version"),
    ],
)
def test_nothing_to_show(tmp_path: Path, capsys, written: dict[str, Any] | None, rule: str) -> None:
    assert main(["evaluate", run_with(tmp_path, written)]) == 2
    told = capsys.readouterr().err
    assert "WRPO-C047" in told
    assert rule in told


def test_a_damaged_file_is_not_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_with(tmp_path, found())
    (path,) = Path(run).glob("evaluate/*/evaluation.json")
    path.write_bytes(path.read_bytes().replace(b"fused", b"mused"))
    assert main(["evaluate", run]) == 6
    assert "WRPO-S017" in capsys.readouterr().err


def test_the_end_of_a_run_tells_the_pairs() -> None:
    estimate = {"mean": 0.5, "low": 0.4, "high": 0.6}
    summary: dict[str, Any] = {"models": {"target": {"reward": estimate}}, "num_prompts": 40}
    manifest = Manifest("evaluate", "f", {}, {}, (), summary, {}, 0.0)
    # A step of an older version has no pairs.
    assert "pairs" not in run_summary({"evaluate": manifest})
    summary["pairs"] = entries()
    text = run_summary({"evaluate": manifest})
    assert "held-out prompts:\n  model   expected reward" in text
    assert f"  by judge: {entries()[0]['words']}" in text


def test_the_model_card_tells_the_pairs() -> None:
    estimate = {"mean": 0.5, "low": 0.4, "high": 0.6}
    text = evaluation_section({"models": {"target": {"reward": estimate}}, "pairs": entries()})
    assert text.splitlines()[4:6] == ["| target | 0.500 [0.400, 0.600] |", ""]
    assert text.splitlines()[6] == f"- By judge: {entries()[0]['words']}."
