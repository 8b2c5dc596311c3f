"""The smoke run with an evaluation, then more of it by jobs/evaluate.py, then its tables from the folder."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.endpoint import KEY_VARIABLE, completion, serving
from wrpo_ray.cli import main

REPOSITORY = Path(__file__).parents[2]
CONFIG = ["--config", "jobs/configs/smoke.yaml"]
EVALUATION = (
    "evaluation={prompts: {path: ./jobs/smoke/heldout.jsonl, answer_column: answer},"
    " sampling: {num_samples: 2, max_tokens: 8}}"
)


def job(script: str, *overrides: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, f"jobs/{script}.py", *CONFIG, *overrides]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=600)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_is_evaluated_and_evaluated_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = (f"run.root={tmp_path}", "ray.address=local", EVALUATION)
    early = job("evaluate", *given)
    assert (early.returncode, "WRPO-C048" in early.stderr) == (2, True), early.stderr[-2000:]
    fused = job("fuse", *given)
    assert fused.returncode == 0, fused.stderr[-4000:]
    assert "pairs on held-out prompts" in fused.stdout
    made = {path: path.stat().st_mtime_ns for path in tmp_path.glob("smoke/*/*/manifest.json")}
    with serving() as endpoint:
        endpoint.answer = lambda asked, number: completion("The first.\n[[A]]")
        judge = f"evaluation.judge={{name: judge, base_url: '{endpoint.url}', model: m, api_key_env: {KEY_VARIABLE}}}"
        more = job("evaluate", *given, "evaluation.sources=all", judge)
    assert more.returncode == 0, more.stderr[-4000:]
    assert "position bias +1.00" in more.stdout
    assert {path: path.stat().st_mtime_ns for path in made} == made
    new = {path.parts[-3] for path in tmp_path.glob("smoke/*/*/manifest.json") if path not in made}
    sources = ("source-qwen2", "source-neox")
    of_sources = {f"evaluation-{step}-{source}" for step in ("sample", "score") for source in sources}
    assert new == {"evaluate", "evaluation-questions", "evaluation-judge", *of_sources}
    assert main(["evaluate", str(tmp_path / "smoke"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [model["name"] for model in found["models"]] == ["target", "target-sft", "fused", *sources]
    assert {pair["judged_by"] for pair in found["pairs"]} == {"reward", "verifier", "judge"}
    assert {pair["win_rate"] for pair in found["pairs"] if pair["judged_by"] == "judge"} == {0.5}
    assert len(found["pairs"]) == 3 * 5
