"""Finished steps of other runs are read where they lie; nothing is written there, and no two versions are mixed."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import pytest

from tests.faults.memory_store import MemoryStore
from tests.storage.sample_run import SampleRun, contents, finished, tree
from wrpo_ray import run_inspect, run_status
from wrpo_ray.config import RunConfig
from wrpo_ray.errors import ConfigError, StorageError
from wrpo_ray.reuse import existing_runs, require_runs, run_to_reuse
from wrpo_ray.run_state import read_run
from wrpo_ray.steps import Step, execute
from wrpo_ray.storage.location import Location, locate
from wrpo_ray.submissions import record, submission


class SecondRun(SampleRun):
    """A run that trains at another rate, and may reuse others."""

    def __post_init__(self) -> None:
        super().__post_init__()
        prompts, sample, train, export = self.steps
        train = dataclasses.replace(train, identity={"rate": 2e-5}, inputs=(sample,))
        export = dataclasses.replace(export, inputs=(prompts, train))
        self.steps = (prompts, sample, train, export)

    def reuse(self, *names: str) -> SecondRun:
        """Decide where each step lies, as a pipeline does."""
        for step in self.steps:
            if (run := run_to_reuse(step, self.layout, names)) is not None:
                self.layout = self.layout.reusing(step.name, step.fingerprint, run)
        return self

    def submit(self) -> None:
        entry = submission(1, {"run": {"name": "b"}}, self.steps, {"ray": "2.60.0"}, layout=self.layout)
        record(self.layout.submissions, entry)

    def reused(self) -> dict[str, str | None]:
        return {step.name: step.reused_from(self.layout) for step in self.steps}


def second(root: Path, *names: str, salt: str = "") -> SecondRun:
    return SecondRun(locate(root / "b"), salt).reuse(*names)


def spoil(path: Path) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    return path


def a_shard(run: SampleRun) -> Path:
    return sorted(Path(str(run.at("sample") / "data")).iterdir())[1]


def inspect(run: Path, *more: str) -> int:
    parser = argparse.ArgumentParser()
    run_inspect.add_arguments(parser)
    return run_inspect.main(parser.parse_args([str(run), *more]))


def test_only_steps_that_differ_are_made_and_the_result_is_the_same(tmp_path: Path) -> None:
    first = finished(tmp_path / "a")
    # Left there by a crash after the manifest: working state that is not ours to clear.
    (first.at("sample") / "scratch" / "state").write_bytes(b"x")
    before = tree(tmp_path / "a")
    run = second(tmp_path, "a")
    assert run.reused() == {"prompts": "a", "sample": "a", "train": None, "export": None}
    assert run.run() == ["train", "export"]
    assert tree(tmp_path / "a") == before
    alone = SecondRun(locate(tmp_path / "alone"))
    alone.run()
    made = {name: digest for name, digest in contents(tmp_path / "alone").items() if name.startswith(("train", "exp"))}
    assert contents(tmp_path / "b") == made
    # A later start without the other run makes the rest itself, and what was made from it still holds.
    assert SecondRun(locate(tmp_path / "b")).run() == ["prompts", *alone.made[1:-2]]


def test_a_whole_run_may_be_reused_and_has_no_scratch_of_ours(tmp_path: Path) -> None:
    first = finished(tmp_path / "a")
    left = first.at("train") / "scratch" / "state"
    left.write_bytes(b"x")
    again = SampleRun(locate(tmp_path / "b"))
    for step in again.steps:
        again.layout = again.layout.reusing(step.name, step.fingerprint, "a")
        execute(step, again.layout, {})
    assert again.made == []
    assert left.exists()
    assert not (tmp_path / "b").exists()


def test_own_results_come_first_and_those_of_other_inputs_are_not_taken(tmp_path: Path) -> None:
    finished(tmp_path / "a")
    own = second(tmp_path, salt="another GPU")
    execute(own["prompts"], own.layout, {})
    execute(own["sample"], own.layout, {})
    # Run c has made all steps of b, but from the samples of a.
    other = SecondRun(locate(tmp_path / "c")).reuse("a")
    other.run()
    assert second(tmp_path, "c").reused() == dict.fromkeys(("prompts", "sample", "train", "export"))
    assert SecondRun(locate(tmp_path / "d")).reuse("a", "c").reused() == {
        "prompts": "a", "sample": "a", "train": "c", "export": "c",
    }  # fmt: skip


def test_damage_in_the_other_run_is_found_when_it_is_read(tmp_path: Path) -> None:
    path = spoil(a_shard(finished(tmp_path / "a")))
    run = second(tmp_path, "a")
    with pytest.raises(StorageError, match="was changed after it was written") as caught:
        run.run()
    assert caught.value.code == "WRPO-S017"
    assert str(path) in str(caught.value)


def test_what_the_other_run_lost_is_made_again(tmp_path: Path) -> None:
    first = finished(tmp_path / "a")
    run = second(tmp_path, "a")
    (first.at("sample") / "manifest.json").delete()
    before = tree(tmp_path / "a")
    with pytest.raises(StorageError, match="sample was complete in run a when this run began") as caught:
        run.run()
    assert caught.value.code == "WRPO-S034"
    again = second(tmp_path, "a")
    assert again.reused() == {"prompts": "a", "sample": None, "train": None, "export": None}
    assert again.run()[-2:] == ["train", "export"]
    assert tree(tmp_path / "a") == before


def test_status_tells_where_a_step_lies(tmp_path: Path) -> None:
    finished(tmp_path / "a")
    run = second(tmp_path, "a")
    run.run()
    state = read_run(locate(tmp_path / "b"))
    assert [(step.phase, step.run) for step in state.steps] == [
        ("complete", "a"), ("complete", "a"), ("complete", None), ("complete", None),
    ]  # fmt: skip
    shown = run_status.render(state)
    assert shown.count("in run a") == 2
    assert "every step is done" in shown


def test_inspect_checks_the_files_of_the_other_run_and_repairs_none_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = finished(tmp_path / "a")
    run = second(tmp_path, "a")
    run.run()
    assert inspect(tmp_path / "b") == 0
    assert "complete (in run a)" in capsys.readouterr().out
    path = spoil(a_shard(first))
    before, own = tree(tmp_path / "a"), contents(tmp_path / "b")
    for options in ((), ("--repair",)):
        with pytest.raises(StorageError, match="damaged") as caught:
            inspect(tmp_path / "b", *options)
        assert str(path) in str(caught.value)
        assert f"wrpo-ray inspect {tmp_path / 'a'}`" in str(caught.value.help)
        assert "everything verifies" not in capsys.readouterr().out
    assert tree(tmp_path / "a") == before
    assert contents(tmp_path / "b") == own
    # Repaired by itself, the other run makes the same bytes again, and all is whole.
    assert inspect(tmp_path / "a", "--repair") == 0
    SampleRun(locate(tmp_path / "a")).run()
    assert inspect(tmp_path / "b") == 0


def test_runs_to_reuse_must_be_there(tmp_path: Path) -> None:
    finished(tmp_path / "a")
    finished(tmp_path / "c", until="prompts")
    (tmp_path / "no-run").mkdir()
    require_runs(RunConfig(name="b", root=str(tmp_path), reuse=("a", "c")))
    wrong = {("no-run",): "there are: a, c", ("b",): "its own steps", ("a", "a"): "named twice"}
    for names, told in wrong.items():
        with pytest.raises(ConfigError, match=told) as caught:
            require_runs(RunConfig(name="b", root=str(tmp_path), reuse=names))
        assert caught.value.code == "WRPO-C034"


def test_runs_in_a_bucket_are_named_too() -> None:
    keys = ("b/submissions/000001.json", "a/submissions/000001.json", "c/lease/1.json", "a/sft/0/manifest.json")
    store = MemoryStore({f"runs/{key}": b"{}" for key in keys})
    assert existing_runs(Location(store, "runs")) == ["a", "b"]


def test_steps_without_inputs_are_found_by_name_and_fingerprint_alone(tmp_path: Path) -> None:
    first = finished(tmp_path / "a", until="prompts")
    layout = SampleRun(locate(tmp_path / "b")).layout
    renamed = Step("other", first["prompts"].identity, (), first["prompts"].run)
    assert run_to_reuse(first["prompts"], layout, ["a"]) == "a"
    assert run_to_reuse(renamed, layout, ["a"]) is None
