"""A complete step is not run again; a fingerprint covers what changes the result."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from wrpo_ray.errors import LeaseError
from wrpo_ray.steps import Step, StepResult, complete, execute
from wrpo_ray.storage.location import Location, locate
from wrpo_ray.storage.manifest import RunLayout
from wrpo_ray.storage.tables import write_file


def nothing(folder: Location) -> StepResult:
    return StepResult((), {})


def make(name: str = "sft", identity: Mapping[str, Any] | None = None, inputs: tuple[Step, ...] = ()) -> Step:
    return Step(name, {"lr": 1e-5} if identity is None else identity, inputs, nothing)


@pytest.fixture
def layout(tmp_path: Path) -> RunLayout:
    return RunLayout(locate(tmp_path))


def test_fingerprint_is_golden() -> None:
    assert make().fingerprint == "e53ac1caf7df5378"


def test_fingerprint_covers_name_identity_and_inputs() -> None:
    source = make("score", {"seed": 1})
    other = make("score", {"seed": 2})
    steps = [make(), make("wrpo"), make(identity={"lr": 2e-5}), make(inputs=(source,)), make(inputs=(other,))]
    assert len({step.fingerprint for step in steps}) == len(steps)


def test_fingerprint_ignores_function_scratch_source_and_order_of_keys() -> None:
    first = Step("sft", {"a": 1, "b": 2}, (), nothing)
    second = Step("sft", {"b": 2, "a": 1}, (), lambda folder: StepResult((), {"rows": 1}), ("checkpoints",), "m")
    assert first.fingerprint == second.fingerprint


def test_identity_must_be_json() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        _ = make(identity={"lr": float("nan")}).fingerprint


def test_complete_step_is_not_run_again(layout: RunLayout) -> None:
    calls = []

    def run(folder: Location) -> StepResult:
        calls.append(folder)
        return StepResult((write_file(folder, "a.txt", b"result"),), {"rows": 1})

    step = Step("sft", {}, (), run)
    assert not complete(step, layout)
    first, second = (execute(step, layout, {"ray": "2"}) for _ in range(2))
    assert complete(step, layout)
    assert first == second
    assert calls == [step.folder(layout)]
    assert [entry.path for entry in first.files] == ["a.txt"]
    assert (first.summary, first.versions) == ({"rows": 1}, {"ray": "2"})


def test_files_are_listed_in_order_of_their_names(layout: RunLayout) -> None:
    def run(folder: Location) -> StepResult:
        return StepResult(tuple(write_file(folder, name, b"x") for name in ("b", "c", "a")), {})

    manifest = execute(Step("sft", {}, (), run), layout, {})
    assert [entry.path for entry in manifest.files] == ["a", "b", "c"]


def test_failed_step_runs_again(layout: RunLayout) -> None:
    attempts = []

    def run(folder: Location) -> StepResult:
        attempts.append(folder)
        if len(attempts) == 1:
            raise RuntimeError("lost a node")
        return StepResult((), {})

    step = Step("sft", {}, (), run)
    with pytest.raises(RuntimeError, match="lost a node"):
        execute(step, layout, {})
    assert not complete(step, layout)
    execute(step, layout, {})
    assert len(attempts) == 2


def test_driver_that_lost_the_run_marks_nothing_as_complete(layout: RunLayout) -> None:
    def taken_over() -> None:
        raise LeaseError("taken over")

    with pytest.raises(LeaseError, match="taken over"):
        execute(make(), layout, {}, still_ours=taken_over)
    assert not complete(make(), layout)


def test_scratch_is_gone_once_the_step_is_complete_even_after_a_crash(layout: RunLayout) -> None:
    def run(folder: Location) -> StepResult:
        (folder / "checkpoints/weights").write_bytes(b"x")
        return StepResult((write_file(folder, "model/weights", b"x"),), {})

    step = Step("sft", {}, (), run, scratch=("checkpoints",))
    execute(step, layout, {})
    kept = ["manifest.json", "model/weights"]
    assert [place.relative_to(step.folder(layout)) for place in step.folder(layout).walk()] == kept
    (step.folder(layout) / "checkpoints/weights").write_bytes(b"left by a crash after the manifest")
    execute(step, layout, {})
    assert [place.relative_to(step.folder(layout)) for place in step.folder(layout).walk()] == kept


def test_manifest_names_its_inputs(layout: RunLayout) -> None:
    source = make("score", {"seed": 1})
    manifest = execute(make(inputs=(source,)), layout, {})
    assert manifest.inputs == {"score": source.fingerprint}


def test_a_step_whose_scratch_another_driver_has_cleared_is_the_other_ones(tmp_path: Path) -> None:
    layout = RunLayout(locate(tmp_path))
    other = Step("made", {}, (), lambda folder: StepResult((), {"by": "the other"}))

    def run(folder: Location) -> StepResult:
        execute(other, layout, {})
        raise FileNotFoundError("scratch/parts")

    assert execute(Step("made", {}, (), run), layout, {}).summary == {"by": "the other"}
    alone = Step("alone", {}, (), lambda folder: StepResult((), {"size": len((folder / "gone").read_bytes())}))
    with pytest.raises(FileNotFoundError):
        execute(alone, layout, {})
