"""A complete step is not run again; a fingerprint covers what changes the result."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from wrpo_ray.steps import Step, complete, execute
from wrpo_ray.storage import RunLayout, read_manifest


def nothing(folder: Path) -> Mapping[str, Any]:
    return {}


def make(name: str = "sft", identity: Mapping[str, Any] | None = None, inputs: tuple[Step, ...] = ()) -> Step:
    return Step(name, {"lr": 1e-5} if identity is None else identity, inputs, nothing)


def test_fingerprint_is_golden() -> None:
    assert make().fingerprint == "213bf5c0650bbb36"


def test_fingerprint_covers_name_identity_and_inputs() -> None:
    source = make("score", {"seed": 1})
    other = make("score", {"seed": 2})
    steps = [make(), make("wrpo"), make(identity={"lr": 2e-5}), make(inputs=(source,)), make(inputs=(other,))]
    assert len({step.fingerprint for step in steps}) == len(steps)


def test_fingerprint_ignores_function_scratch_and_order_of_keys() -> None:
    first = Step("sft", {"a": 1, "b": 2}, (), nothing)
    second = Step("sft", {"b": 2, "a": 1}, (), lambda folder: {"rows": 1}, scratch=("checkpoints",))
    assert first.fingerprint == second.fingerprint


def test_identity_must_be_json() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        _ = make(identity={"lr": float("nan")}).fingerprint


def test_complete_step_is_not_run_again(tmp_path: Path) -> None:
    calls = []

    def run(folder: Path) -> Mapping[str, Any]:
        calls.append(folder)
        (folder / "a.txt").write_text("result")
        return {"rows": 1}

    step, layout = Step("sft", {}, (), run), RunLayout(tmp_path)
    assert not complete(step, layout)
    first, second = (execute(step, layout, {"ray": "2"}) for _ in range(2))
    assert complete(step, layout)
    assert first == second
    assert calls == [step.folder(layout)]
    assert ([entry.path for entry in first.files], first.summary, first.versions) == (
        ["a.txt"],
        {"rows": 1},
        {"ray": "2"},
    )


def test_failed_step_runs_again(tmp_path: Path) -> None:
    attempts = []

    def run(folder: Path) -> Mapping[str, Any]:
        attempts.append(folder)
        if len(attempts) == 1:
            raise RuntimeError("lost a node")
        return {}

    step, layout = Step("sft", {}, (), run), RunLayout(tmp_path)
    with pytest.raises(RuntimeError, match="lost a node"):
        execute(step, layout, {})
    assert not complete(step, layout)
    execute(step, layout, {})
    assert len(attempts) == 2


def test_scratch_and_hidden_files_are_no_results(tmp_path: Path) -> None:
    def run(folder: Path) -> Mapping[str, Any]:
        for name in ("model/weights", "checkpoints/weights", ".a.tmp"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text("x")
        return {}

    step, layout = Step("sft", {}, (), run, scratch=("checkpoints",)), RunLayout(tmp_path)
    execute(step, layout, {})
    manifest = read_manifest(step.folder(layout))
    assert manifest is not None
    assert [entry.path for entry in manifest.files] == ["model/weights"]


def test_manifest_names_its_inputs(tmp_path: Path) -> None:
    source = make("score", {"seed": 1})
    manifest = execute(make(inputs=(source,)), RunLayout(tmp_path), {})
    assert manifest.inputs == {"score": source.fingerprint}
