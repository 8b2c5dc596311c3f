"""`wrpo-ray status` tells a finished, running, failed, empty and damaged run apart, and changes none of them."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.storage.sample_run import NUM_PROMPTS, SampleRun, finished, tree
from wrpo_ray import run_status
from wrpo_ray.broken_sources import mark_broken
from wrpo_ray.errors import ConfigError, ModelError, StorageError
from wrpo_ray.failures import note_failure
from wrpo_ray.run_state import RunState, StepState, read_run
from wrpo_ray.storage.lease import held
from wrpo_ray.storage.location import locate
from wrpo_ray.storage.manifest import MANIFEST


def status(run: Path, *more: str) -> int:
    parser = argparse.ArgumentParser()
    run_status.add_arguments(parser)
    return run_status.main(parser.parse_args([str(run), *more]))


def step(state: RunState, name: str) -> StepState:
    return next(step for step in state.steps if step.name == name)


def commit_at(run: SampleRun, times: list[int]) -> None:
    """Commit as many shards as there are `times`, each at that second by the store's clock."""
    for shard, seconds in zip(run.shards(), times, strict=False):
        run.commit_shard(shard)
        path = (run.at("sample") / f"commits/{shard.name}.json").local_path
        assert path
        os.utime(path, (seconds, seconds))


def test_finished_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finished(tmp_path)
    state = read_run(locate(tmp_path))
    assert [each.phase for each in state.steps] == ["complete"] * 4
    sample = step(state, "sample")
    assert (sample.rows, sample.shards_done, sample.shards_planned) == ((NUM_PROMPTS - 1) * 2, 4, 4)
    assert sample.quarantined == {"engine_crash": 1}
    assert status(tmp_path) == 0
    shown = capsys.readouterr().out
    assert "nothing: every step is done" in shown
    assert f"sample: 1 engine_crash  {sample.folder}/quarantine/engine_crash.jsonl" in shown


def test_running_run_tells_pace_and_owner(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finished(tmp_path, until="prompts")
    commit_at(run, [1000, 1010, 1020])
    with held(run.layout.leases, 60):
        state = read_run(run.folder)
        status(tmp_path)
    sample = step(state, "sample")
    assert state.live
    assert (sample.phase, sample.shards_done, sample.shards_planned) == ("running", 3, 4)
    # Shards 2 and 3 hold 4 and 6 rows (one of their 6 items is set aside) and took 20 seconds; 2 items are left.
    assert sample.pace.rate == pytest.approx(10 / 20)
    assert sample.pace.seconds_left == pytest.approx(2 * 20 / 6)
    shown = capsys.readouterr().out
    assert f"driver pid {os.getpid()} on " in shown
    assert "live, last sign of life" in shown
    assert "about 6.7 s" in shown


def test_pace_is_unknown_and_says_why(tmp_path: Path) -> None:
    run = finished(tmp_path, until="prompts")
    commit_at(run, [1000])
    assert step(read_run(run.folder), "sample").pace.unknown == "no driver is at work"
    with held(run.layout.leases, 60):
        assert "1 of 4 shards are done, two are needed" in str(step(read_run(run.folder), "sample").pace.unknown)


def test_step_that_has_just_begun_is_running(tmp_path: Path) -> None:
    run = finished(tmp_path, until="prompts")
    with held(run.layout.leases, 60):
        assert [each.phase for each in read_run(run.folder).steps] == ["complete", "running", "to do", "to do"]


def test_failed_run_is_partly_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finished(tmp_path, until="prompts")
    commit_at(run, [1000, 1010])
    state = read_run(run.folder)
    assert [each.phase for each in state.steps] == ["complete", "partly done", "to do", "to do"]
    # Rows of the two shards; the one that was set aside is in the second one.
    assert (step(state, "sample").rows, step(state, "sample").quarantined) == (10, {"engine_crash": 1})
    assert status(tmp_path) == 0
    assert "start the run again with its config: finished work is kept" in capsys.readouterr().out


def test_training_tells_its_step(tmp_path: Path) -> None:
    run = finished(tmp_path, until="sample")
    folder = run.at("train")
    (folder / "progress.json").write_json({"num_steps": 40})
    (folder / "metrics.jsonl").write_bytes(b'{"step": 1}\n{"step": 20, "loss": 1}\n{"step": 2')
    for number, seconds in ((10, 1000), (20, 1050)):
        marker = folder / f"scratch/checkpoints/step-{number:08d}-abc/checkpoint.json"
        marker.write_json({})
        assert marker.local_path
        os.utime(marker.local_path, (seconds, seconds))
    with held(run.layout.leases, 60):
        train = step(read_run(run.folder), "train")
    assert (train.phase, train.training.step, train.training.num_steps) == ("running", 20, 40)
    assert train.pace.seconds_left == pytest.approx(100)
    assert run_status.done(train) == "step 20 of 40"


def test_killed_driver_of_this_machine_is_stale_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finished(tmp_path, until="prompts")
    program = (
        "import sys; from wrpo_ray.storage.lease import Clock, acquire; from wrpo_ray.storage.location import locate;"
        "acquire(locate(sys.argv[1]), 60, Clock())"
    )
    subprocess.run([sys.executable, "-c", program, str(run.layout.leases)], check=True, timeout=60)
    state = read_run(run.folder)
    assert state.holder is not None
    assert (state.holder.state, state.live) == ("stale", False)
    status(tmp_path)
    assert "its driver is dead; finished work is kept" in capsys.readouterr().out


def test_source_that_the_run_goes_on_without(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finished(tmp_path, until="prompts")
    mark_broken(run.layout.broken_sources, "m", ModelError("no chat template\nlong story", code="WRPO-M004"), 1)
    state = read_run(run.folder)
    assert step(state, "sample").phase == "left out"
    status(tmp_path)
    assert "m: WRPO-M004 no chat template\n" in capsys.readouterr().out


def test_what_starts_ended_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finished(tmp_path, until="sample")
    planned = {each.name: each.fingerprint for each in run.steps}
    lost = ModelError("the loss of step 3 is nan\nlong story", code="WRPO-T004", help="look at the rows")
    note_failure(run.folder, "sample", planned["sample"], ModelError("no engine", code="WRPO-M004", help="old"), 1)
    note_failure(run.folder, "train", "0" * 16, KeyError("x"), 2)
    note_failure(run.folder, "train", planned["train"], lost, 3)
    state = read_run(run.folder)
    assert [(each.step, each.epoch) for each in state.failures] == [("sample", 1), ("train", 2), ("train", 3)]
    assert [state.stands(each) for each in state.failures] == [False, False, True]
    assert status(tmp_path) == 0
    shown = capsys.readouterr().out
    first, second, third, fix = shown.partition("failures of starts:\n")[2].splitlines()[:4]
    assert first.endswith(" sample: WRPO-M004 no engine (done since, or another config)")
    assert second.endswith(" train: KeyError: 'x' (done since, or another config)")
    assert third.endswith(" train: WRPO-T004 the loss of step 3 is nan")
    assert fix == "    fix: look at the rows"
    assert "next: repair what step train failed at (`wrpo-ray explain WRPO-T004` says more)" in shown
    status(tmp_path, "--json")
    assert [each["code"] for each in json.loads(capsys.readouterr().out)["failures"]] == [
        "WRPO-M004",
        None,
        "WRPO-T004",
    ]
    run.run()
    status(tmp_path)
    shown = capsys.readouterr().out
    assert "nan (done since, or another config)" in shown
    assert "next: nothing: every step is done" in shown


def test_many_failures_and_a_damaged_record_of_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finished(tmp_path, until="sample")
    for number in range(8):
        note_failure(run.folder, "train", "0" * 16, ValueError(f"reason {number}"), number)
    (tmp_path / "failures" / "000008.json").write_text("cut")
    assert status(tmp_path) == 0
    shown = capsys.readouterr().out
    assert f"and 2 older: {run.folder}/failures" in shown
    assert [f"reason {number}" in shown for number in range(8)] == [False, False, *[True] * 5, False]


def test_run_that_has_just_begun(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = SampleRun(locate(tmp_path))
    with held(run.layout.leases, 60):
        assert status(tmp_path) == 0
    run.submit()
    assert [each.phase for each in read_run(run.folder).steps] == ["to do"] * 4
    assert "no start has got so far as to list its steps" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["", "nowhere"])
def test_folder_that_is_no_run(tmp_path: Path, name: str) -> None:
    (tmp_path / "something").write_text("else")
    with pytest.raises(ConfigError, match="is no run") as caught:
        status(tmp_path / name)
    assert (caught.value.code, caught.value.exit_code) == ("WRPO-C040", 2)
    assert list(tree(tmp_path)) == ["something"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (f"{{sample}}/{MANIFEST}", "is not the JSON that was written"),
        ("submissions/000001.json", "is not the JSON that was written"),
        ("{sample}/plan.json", "is not the JSON that was written"),
    ],
)
def test_damaged_record_is_named(tmp_path: Path, name: str, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = finished(tmp_path)
    path = tmp_path / name.format(sample=run.at("sample").relative_to(run.folder))
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(StorageError, match="is damaged") as caught:
        status(tmp_path)
    assert (caught.value.code, caught.value.exit_code) == ("WRPO-S031", 6)
    assert str(path) in str(caught.value)
    assert reason in str(caught.value)
    assert "--repair" in capsys.readouterr().out


def test_missing_file_is_named(tmp_path: Path) -> None:
    run = finished(tmp_path)
    path = (run.at("train") / "model/model.safetensors").local_path
    assert path
    path.unlink()
    with pytest.raises(StorageError, match=r"model\.safetensors: missing, the manifest lists it"):
        status(tmp_path)
    assert [each.phase for each in read_run(run.folder).steps] == ["complete", "complete", "damaged", "complete"]


def test_status_reads_only(tmp_path: Path) -> None:
    finished(tmp_path)
    before = tree(tmp_path)
    assert status(tmp_path) == 0
    assert tree(tmp_path) == before


def test_json_is_all_that_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finished(tmp_path, until="prompts")
    commit_at(run, [1000])
    with held(run.layout.leases, 60):
        assert status(tmp_path, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["owner"]["owner"]["pid"] == os.getpid()
    assert [each["phase"] for each in told["steps"]] == ["complete", "running", "to do", "to do"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.52, "0.5 s"), (59.4, "59 s"), (600, "10 min"), (3599, "1 h 0 min"), (5400, "1 h 30 min"), (2e5, "2 d 7 h")],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert run_status.duration(seconds) == text
