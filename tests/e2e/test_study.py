"""The smoke study: real engines, real training, three runs that share what they can."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_smoke_study(tmp_path: Path) -> None:
    command = [sys.executable, "jobs/study.py", "--config", "jobs/configs/study_smoke.yaml", f"study.root={tmp_path}"]

    def study(*arguments: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*command, *arguments], cwd=REPOSITORY, text=True, capture_output=True, check=False, timeout=800
        )
        assert done.returncode == 0, done.stderr[-6000:]
        return done

    foreseen = study("--dry-run").stdout
    assert "23 to make, each once; 14 shared with a run above" in foreseen
    assert not (tmp_path / "study-smoke").exists()
    done = study()
    print(done.stdout)
    # One Ray session for all runs.
    assert done.stderr.count("Ray cluster local") == 1
    told = json.loads((tmp_path / "study-smoke" / "results.json").read_text())
    assert {run["name"]: run["status"] for run in told["runs"]} == dict.fromkeys(
        ("wrpo", "dpo", "one-source"), "complete"
    )
    counts = {(count["step"], count["fingerprint"]): (count["made"], count["read"]) for count in told["counters"]}
    assert sum(made for made, _ in counts.values()) == 23
    assert sum(read for _, read in counts.values()) == 14
    of_step = {step: count for (step, _), count in counts.items()}
    assert (of_step["sample-source-qwen2"], of_step["sample-source-neox"]) == ((1, 2), (1, 1))
    rows = {row["run"]: row for row in csv.DictReader((tmp_path / "study-smoke" / "results.csv").open())}
    # The first step has learning rate 0 and alpha 0: in the second one dpo and wrpo differ in the gradient alone.
    assert rows["wrpo"]["num_steps"] == rows["dpo"]["num_steps"] == "2"
    assert rows["wrpo"]["train/loss"] == rows["dpo"]["train/loss"]
    assert rows["wrpo"]["train/grad_norm"] != rows["dpo"]["train/grad_norm"]
    assert float(rows["dpo"]["train/alpha"]) == 0 < float(rows["wrpo"]["train/alpha"])
    assert rows["one-source"]["win_share/source-qwen2"] == "1.0"
    assert float(rows["dpo"]["cpu_hours"]) < float(rows["dpo"]["cpu_hours_alone"])
    again = study()
    assert "Ray cluster" not in again.stderr
    assert json.loads((tmp_path / "study-smoke" / "results.json").read_text()) == told
