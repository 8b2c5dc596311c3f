"""A study makes every step once, goes on where it stopped, outlives a run that fails, and searches."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.study_doubles import BEST_ALPHA, Made, without_ray, write_base, write_study
from wrpo_ray.errors import ConfigError, InterruptedRunError, LeaseError
from wrpo_ray.study import work
from wrpo_ray.study.load import load_study
from wrpo_ray.study.sharing import Builder, RunShare, shared_text, shares
from wrpo_ray.study.table import kind_of

NUM_SOURCES = 10
RUNS = """
runs:
  wrpo: {}
  dpo: {wrpo.objective: dpo}
  rank-2: {ablation.source_rank: 2}
  no-sft: {ablation.skip_sft: true}
grids:
  sources: {sources: [first 1, first 2, first 5]}
  alpha: {wrpo.alpha.schedule: [linear, constant], wrpo.alpha.end: [0.3, 0.5]}
"""
NUM_RUNS = 11
FEW = "runs: {wrpo: {}, dpo: {wrpo.objective: dpo}, one: {sources: first 1}}"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    without_ray(monkeypatch)
    write_base(tmp_path, 2)
    return tmp_path


@dataclass
class Whole:
    """A study over ten sources, after its end; foreseen: what its dry run said."""

    folder: Path
    made: Made
    foreseen: list[RunShare]
    builder: Builder
    printed: str


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    folder, made = tmp_path_factory.mktemp("whole"), Made()
    with pytest.MonkeyPatch.context() as monkeypatch:
        without_ray(monkeypatch)
        write_base(folder, NUM_SOURCES)
        builder = made.builder(load_study(write_study(folder, RUNS)))
        foreseen, printed = shares(builder.study.runs, builder.all()), io.StringIO()
        with contextlib.redirect_stdout(printed):
            assert work.work_through(builder, builder.all()) == 0
        yield Whole(folder, made, foreseen, builder, printed.getvalue())


def work_on(folder: Path, made: Made, text: str, *overrides: str) -> int:
    builder = made.builder(load_study(write_study(folder, text), overrides))
    return work.work_through(builder, builder.all())


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "runs" / "st" / "results.json").read_text())


def test_each_source_is_sampled_and_scored_once_for_all_runs(whole: Whole) -> None:
    made, folder = whole.made, whole.folder
    # What the steps themselves counted: nothing twice but the export, which bears the run's name.
    assert set(made.times().values()) == {1}
    sampled = [step for _, step, _ in made.steps if step.startswith("sample-s")]
    assert sorted(sampled) == sorted(f"sample-s{number}" for number in range(NUM_SOURCES))
    assert [step for _, step, _ in made.steps if step.startswith("score-s")] != []
    # Target-SFT of all sources, of 1, 2 and 5 of them, and the target as it is.
    assert sum(step == "sft" for _, step, _ in made.steps) == 5
    of_dpo = ["evaluate", "evaluation-sample-fused", "evaluation-score", "export", "wrpo"]
    assert sorted(made.names("st-dpo")) == of_dpo
    # The study's own counters say the same.
    counts = {(count["step"], count["fingerprint"]): count for count in results(folder)["counters"]}
    assert counts.keys() == made.times().keys()
    assert {count["made"] for count in counts.values()} == {1}
    read = {step: count["read"] for (step, _), count in counts.items() if step.startswith("sample-s")}
    # s0 is in all 11 runs, s1 not in the one of the first source, s2 to s4 in those of five, the others in eight.
    assert read == {"sample-s0": 10, "sample-s1": 9} | {f"sample-s{n}": 8 for n in (2, 3, 4)} | {
        f"sample-s{n}": 7 for n in range(5, 10)
    }
    assert {kind_of(step) for step, _ in counts} == {
        None, "sampling", "scoring", "SFT", "reference", "preference training",
    }  # fmt: skip


def test_the_table_has_a_row_per_run_with_what_differs_and_what_came_of_it(whole: Whole) -> None:
    folder = whole.folder
    rows = list(csv.DictReader((folder / "runs" / "st" / "results.csv").open()))
    assert len(rows) == NUM_RUNS
    by_name = {row["run"]: row for row in rows}
    row = by_name["alpha-constant-0.5"]
    assert (row["wrpo.alpha.schedule"], row["wrpo.alpha.end"], row["sources"]) == ("constant", "0.5", "")
    # Steps 19 and 20 of 20 are the last tenth.
    assert float(row["train/rewards/accuracies"]) == pytest.approx((19 + 20) / 2 / 20)
    assert float(row["reward/fused"]) == pytest.approx(1 - 0.2**2)
    assert (row["num_steps"], row["num_quadruples"], row["win_share/s9"]) == ("20", "7", "0.1")
    assert (by_name["sources-first-2"]["win_share/s1"], by_name["sources-first-2"]["win_share/s2"]) == ("0.5", "")
    told = {run["name"]: run for run in results(folder)["runs"]}
    assert told["dpo"]["differs"] == {"wrpo.objective": "dpo"}
    assert {run["status"] for run in told.values()} == {"complete"}
    # 10 sources: prompts, 20 of sources, 4 of the target, select, sft, fuse, reference, wrpo, evaluation 5 + 1, export.
    assert (told["wrpo"]["numbers"]["steps_made"], told["wrpo"]["numbers"]["steps_read"]) == (35, 0)
    assert (told["dpo"]["numbers"]["steps_made"], told["dpo"]["numbers"]["steps_read"]) == (5, 30)
    assert "sampling" in whole.printed
    assert "wrpo.alpha.schedule=constant, wrpo.alpha.end=0.5" in whole.printed


def test_the_dry_run_foresees_what_is_made(whole: Whole) -> None:
    # Models and prompts are looked at once for each set of sources.
    assert len(whole.builder.checked) == 4
    for share in whole.foreseen:
        assert sorted(share.makes) == sorted(whole.made.names(f"st-{share.name}"))
        assert share.complete == ()
    text = shared_text(whole.builder.study, whole.foreseen)
    assert f"{len(whole.made.steps)} to make, each once" in text
    again = shares(whole.builder.study.runs, whole.builder.all())
    assert sum(len(share.makes) + len(share.reads) for share in again) == 0


def test_a_failed_run_leaves_the_others_alone_and_is_made_by_the_next_start(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Made()
    made.broken = {"st-wrpo": "score-s1"}
    assert work_on(folder, made, FEW) == 8
    assert "broken on purpose" in capsys.readouterr().err
    status = {run["name"]: (run["status"], run["numbers"]["error"]) for run in results(folder)["runs"]}
    assert status.pop("wrpo") == ("failed", "WRPO-M001: score-s1 is broken on purpose")
    assert set(status.values()) == {("complete", "")}
    # What the failed run had made by then was read, not made again.
    assert set(made.times().values()) == {1}
    before = len(made.steps)
    made.broken = {}
    assert work_on(folder, made, FEW) == 0
    assert {run for run, _, _ in made.steps[before:]} == {"st-wrpo"}
    # All but its own training and what follows is read from the others, made meanwhile.
    assert set(made.times().values()) == {1}
    # With nothing left to do no cluster is started.
    monkeypatch.setattr(work, "connected", lambda config: pytest.fail("a cluster was started"))
    before, told = len(made.steps), results(folder)
    assert work_on(folder, made, FEW) == 0
    assert made.steps[before:] == []
    assert results(folder) == told


def test_an_interruption_ends_the_study_and_no_run_is_called_failed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Made()
    real, calls = work.run, []

    def interrupted(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:
            raise InterruptedRunError("interrupted by SIGTERM")
        return real(*arguments, **options)

    monkeypatch.setattr(work, "run", interrupted)
    with pytest.raises(InterruptedRunError):
        work_on(folder, made, FEW)
    assert len(calls) == 2
    status = {run["name"]: run["status"] for run in results(folder)["runs"]}
    assert status == {"wrpo": "complete", "dpo": "not started", "one": "not started"}
    assert work_on(folder, made, FEW) == 0
    assert set(made.times().values()) == {1}


def test_a_second_driver_of_the_study_is_refused(folder: Path) -> None:
    made, lease = Made(), "run.lease_timeout_s=60"
    builder = made.builder(load_study(write_study(folder, "runs: {a: {}}"), [lease]))
    with work._driving_study(builder), pytest.raises(LeaseError):
        work_on(folder, made, "runs: {a: {}}", lease)
    assert made.steps == []


def test_a_run_of_the_same_root_may_be_read_too(folder: Path) -> None:
    made = Made()
    work_on(folder, made, "runs: {a: {}}")
    before = len(made.steps)
    text = "runs: {b: {wrpo.beta: 0.5}}"
    assert work_on(folder, made, text, "study.name=other", "study.reuse=[st-a]") == 0
    assert [step for _, step, _ in made.steps[before:]] == [
        "wrpo", "evaluation-sample-fused", "evaluation-score", "evaluate", "export",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match=r"there are: .*st-a"):
        work_on(folder, made, text, "study.name=third", "study.reuse=[nope]")


SEARCH = """
runs: {wrpo: {}}
search:
  fields: {wrpo.alpha.end: {low: 0.05, high: 0.9}}
  num_trials: 6
  metric: reward/fused
  seed: 3
"""


@pytest.mark.parametrize("algorithm", ["random", "optuna"])
def test_a_search_shares_all_steps_before_training_and_finds_a_good_value(
    folder: Path, algorithm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if algorithm == "optuna":
        pytest.importorskip("optuna")
    made = Made()
    text = SEARCH + f"  algorithm: {algorithm}\n"
    assert work_on(folder, made, text) == 0
    assert set(made.times().values()) == {1}
    for number in range(6):
        assert made.names(f"st-search-{number:03d}")[0] == "wrpo"
    told = {run["name"]: run for run in results(folder)["runs"]}
    ends = {name: run["differs"].get("wrpo.alpha.end", 0.1) for name, run in told.items()}
    assert len(set(ends.values())) == 7
    assert all(0.05 <= end <= 0.9 for end in ends.values())
    best = max((name for name in told if name != "wrpo"), key=lambda name: told[name]["numbers"]["reward/fused"])
    assert best == min((name for name in ends if name != "wrpo"), key=lambda name: abs(ends[name] - BEST_ALPHA))
    assert f"is best in {best}" in capsys.readouterr().out
    # Started again, it draws the same values and finds all trials finished.
    before = len(made.steps)
    assert work_on(folder, made, text) == 0
    assert made.steps[before:] == []
    # More trials go on from those.
    assert work_on(folder, made, text.replace("num_trials: 6", "num_trials: 7")) == 0
    assert {run for run, _, _ in made.steps[before:]} == {"st-search-006"}


def test_a_metric_that_is_not_there_is_told_with_those_that_are(folder: Path) -> None:
    with pytest.raises(ConfigError, match="no number `reward/nobody`") as caught:
        work_on(folder, Made(), SEARCH.replace("reward/fused", "reward/nobody"))
    assert caught.value.code == "WRPO-C097"
    assert "reward/fused" in str(caught.value.help)
