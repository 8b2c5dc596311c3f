"""What a study's file means, and that all that is wrong with it is told at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.study_doubles import write_base, write_study
from wrpo_ray.config_file import load_config
from wrpo_ray.errors import ConfigError
from wrpo_ray.study.load import Study, load_study

ROOT = Path(__file__).parents[2]
SEARCH_BY_REWARD = "search: {fields: {wrpo.beta: {low: 0.1, high: 0.2}}, num_trials: 1, metric: reward/fused}"
STUDIES = sorted((ROOT / "jobs" / "configs").glob("study_*.yaml"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_base(tmp_path, 4)
    return tmp_path


def study(folder: Path, text: str, *overrides: str) -> Study:
    return load_study(write_study(folder, text), overrides)


def refused(folder: Path, text: str, *overrides: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        study(folder, text, *overrides)
    return caught.value


def test_runs_are_the_base_with_their_changes(folder: Path) -> None:
    text = """
set: {wrpo.beta: 0.5}
groups: {odd: [s3, s1]}
runs:
  plain: {}
  one: {sources: first 1, wrpo.beta: 0.25, sources.s0.sampling.num_samples: 3}
  odd: {sources: odd}
  listed: {sources: [s2]}
  reward: {reward: {type: verifier, mode: numeric}}
  alpha: {wrpo.alpha: {schedule: constant, end: 1.0}}
grids:
  g: {wrpo.objective: [dpo, wrpo_simpo], wrpo.length_normalized: [true], sft.learning_rate: [1e-5]}
"""
    runs = {run.name: run.config for run in study(folder, text, "sft.num_epochs=2", "wrpo.beta=0.75").runs}
    assert list(runs) == [
        "plain", "one", "odd", "listed", "reward", "alpha", "g-dpo-true-1e-05", "g-wrpo_simpo-true-1e-05",
    ]  # fmt: skip
    # The file's `set`, then the command line, then the run's own.
    assert (runs["plain"].wrpo.beta, runs["one"].wrpo.beta) == (0.75, 0.25)
    assert {config.sft.num_epochs for config in runs.values()} == {2}
    names = {name: [source.name for source in config.sources] for name, config in runs.items()}
    assert (names["plain"], names["one"], names["odd"], names["listed"]) == (
        ["s0", "s1", "s2", "s3"], ["s0"], ["s3", "s1"], ["s2"],
    )  # fmt: skip
    assert runs["one"].sources[0].sampling.num_samples == 3
    assert json.loads(runs["reward"].reward.model_dump_json())["mode"] == "numeric"
    assert (runs["alpha"].wrpo.alpha.schedule, runs["alpha"].wrpo.alpha.end) == ("constant", 1.0)
    assert runs["g-dpo-true-1e-05"].sft.learning_rate == 1e-5
    assert runs["one"].run.name == "st-one"
    assert {config.run.root for config in runs.values()} == {str(folder / "runs")}
    base = load_config(folder / "base.yaml", ["wrpo.beta=0.75", "sft.num_epochs=2"])
    assert runs["plain"].model_copy(update={"run": base.run}) == base


def test_seeds_multiply_runs(folder: Path) -> None:
    found = study(folder, "runs: {a: {}, b: {wrpo.beta: 0.5}}\nseeds: [1, 2]").runs
    told = [(run.name, run.config.run.seed, run.config.wrpo.beta) for run in found]
    assert told == [("a-seed-1", 1, 0.01), ("b-seed-1", 1, 0.5), ("a-seed-2", 2, 0.01), ("b-seed-2", 2, 0.5)]


def test_all_problems_of_all_runs_are_told_at_once_and_common_ones_once(folder: Path) -> None:
    text = "runs: {a: {wrpo.betta: 1}, b: {wrpo.objective: ppo}, c: {wrpo.objective: ppo}, ok: {}}\n"
    error = refused(folder, text)
    assert [problem.code for problem in error.problems] == ["WRPO-C003", "WRPO-C006"]
    assert "`wrpo.betta` (run a)" in error.problems[0].place
    assert "`wrpo.objective` (run b, c)" in error.problems[1].place


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "a study has runs, grids or a search"),
        ("runs: {a: {}, a-1: {}}\ngrids: {a: {run.seed: [1]}}", "2 runs have this name"),
        ("runs: {a: {sources: first 5}}", "neither a source of the base nor a group"),
        ("runs: {a: {sources: [s0, x]}}", "neither a source of the base nor a group"),
        ("runs: {a: {run.name: x}}", "the study sets this itself"),
        ("set: {run.reuse: [x]}\nruns: {a: {}}", "the study sets this itself"),
        (f"runs: {{{'x' * 63}: {{}}}}", "longer than 63"),
        ("runs: {a: {}}\nseeds: [1, 1]", "a seed is there twice"),
        ("runs: {a: {run.seed: 5}}\nseeds: [1, 2]", "the study has `seeds`"),
        ("grids: {a: {run.seed: [5, 6]}}\nseeds: [1, 2]", "the study has `seeds`"),
        ("set: {run.seed: 5}\nruns: {a: {}}\nseeds: [1, 2]", "the study has `seeds`"),
        (f"seeds: [1, 2]\n{SEARCH_BY_REWARD}", "trials of a search have the base's seed"),
        (f"runs: {{search-000: {{}}}}\n{SEARCH_BY_REWARD}", "2 runs have this name"),
        ("runs: {a: {ray.num_cpus: 2}, b: {}}", "one Ray session"),
        ("set: {export.path: out}\nruns: {a: {}, b: {}}", "into this folder"),
        ("nonsense: 1", "unknown field"),
        ("search: {fields: {wrpo.beta: {low: 0.5, high: 0.1}}, num_trials: 1, metric: m}", "low must be less"),
        ("search: {fields: {wrpo.beta: {low: 0, high: 1, log: true}}, num_trials: 1, metric: m}", "has no zero"),
        ("set: {evaluation: null}\n" + SEARCH_BY_REWARD, "the runs have none"),
        ("search: {fields: {run.name: {low: 0, high: 1}}, num_trials: 1, metric: m}", "sets this itself"),
    ],
)
def test_what_a_study_may_not_be(folder: Path, text: str, told: str) -> None:
    error = refused(folder, text)
    assert error.code in ("WRPO-C096", "WRPO-C097")
    assert told in str(error)


def test_a_search_over_a_field_that_is_none_or_out_of_bounds_is_refused_before_it_begins(folder: Path) -> None:
    for path, code in (("wrpo.alfa", "WRPO-C003"), ("wrpo.alpha.end", "WRPO-C006"), ("wrpo.objective", "WRPO-C007")):
        text = f"search: {{fields: {{{path}: {{low: 0.1, high: 1.5}}}}, num_trials: 1, metric: m}}"
        assert {problem.code for problem in refused(folder, text).problems} <= {code, "WRPO-C006"}


def test_a_broken_base_is_told_as_its_own(folder: Path) -> None:
    (folder / "base.yaml").write_text((folder / "base.yaml").read_text() + "nonsense: 1\n")
    error = refused(folder, "runs: {a: {}, b: {}}")
    assert len(error.problems) == 1
    assert "(run" not in error.problems[0].place


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.name)
def test_the_studies_in_the_repository_are_valid(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert load_study(path).runs


def job(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, str(ROOT / "jobs" / "study.py"), *arguments],
        capture_output=True, text=True, cwd=cwd, env=environment, timeout=60, check=False,
    )  # fmt: skip


def test_the_job_answers_at_once_when_a_run_is_wrong(folder: Path) -> None:
    write_study(folder, "runs: {a: {wrpo.betta: 1}}")
    done = job("--config", "study.yaml", cwd=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert "error[WRPO-C003]" in done.stderr
    assert "(run a)" in done.stderr
    for option in ("--dry-run", "--accept-changes", "--retry-broken-sources", "--debug"):
        assert option in job("--help", cwd=folder).stdout
