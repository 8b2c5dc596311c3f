"""Training that is killed goes on bit for bit as if nothing had happened (P-26), past damaged checkpoints (P-27), on
another number of workers (P-28), and saves when a node is about to go (P-07).
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.storage.s3_server import Fault, running_server
from tests.train import runs
from tests.train.crashing import Kill, dying
from wrpo_ray.errors import ModelError
from wrpo_ray.steps import StepResult
from wrpo_ray.storage.location import Location, locate
from wrpo_ray.train.files import node_root
from wrpo_ray.train.metrics import read_metrics

TWO_WORKERS = {"num_workers": 2, "micro_batch_tokens": 4096}
LAYOUTS: dict[str, dict[str, Any]] = {
    "plain": {"num_workers": 1, "micro_batch_tokens": 4096, "zero_stage": 0},
    "zero-1": {**TWO_WORKERS, "zero_stage": 1},
    "zero-2": {**TWO_WORKERS, "zero_stage": 2},
    "zero-3": {**TWO_WORKERS, "zero_stage": 3},
    "zero-1-alone": {"num_workers": 1, "micro_batch_tokens": 4096, "zero_stage": 1},
    "zero-3-alone": {"num_workers": 1, "micro_batch_tokens": 4096, "zero_stage": 3},
}
# Three epochs of three steps; weight decay tells parameter groups apart, the schedule tells steps apart. What is there
# when a rank dies is the same every time only if a checkpoint is whole before the next step.
RUN = {
    "num_epochs": 3, "checkpoint_every_steps": 2, "weight_decay": 0.1, "lr_schedule": "cosine", "warmup_ratio": 0.3,
    "checkpoint_in_background": False,
}  # fmt: skip
NUM_STEPS = 9


@dataclass(frozen=True)
class Outcome:
    """What must not depend on what happened on the way."""

    metrics: bytes
    weights: str

    @property
    def losses(self) -> list[str]:
        return [json.loads(line)["loss"].hex() for line in self.metrics.splitlines()]


def outcome(out: Path, result: StepResult) -> Outcome:
    hashes = {entry.path: entry.sha256 for entry in result.files}
    return Outcome((out / "metrics.jsonl").read_bytes(), hashes["model/model.safetensors"])


def rows_seen(notes: Path) -> dict[tuple[int, int], set[str]]:
    """Return what each rank was given in each step, over all attempts."""
    seen: dict[tuple[int, int], set[str]] = {}
    for path in notes.glob("steps-*.jsonl"):
        for line in path.read_text().splitlines():
            step, rows = json.loads(line)
            seen.setdefault((int(path.stem.split("-")[1]), step), set()).add(json.dumps(rows))
    return seen


@pytest.fixture(autouse=True)
def _quick_controller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.25")


@pytest.fixture(scope="module")
def dropout_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.save_dropout_model(tmp_path_factory.mktemp("dropout"))


@pytest.fixture(scope="module")
def undisturbed(
    local_ray: None, dropout_model: Path, examples: Location, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Outcome]:
    """What each layout gives when nothing happens and nothing is saved."""
    known: dict[str, Outcome] = {}

    def get(name: str) -> Outcome:
        if name not in known:
            out = tmp_path_factory.mktemp(name)
            config = runs.make_config(dropout_model, sft={**RUN, **LAYOUTS[name], "checkpoint_every_steps": 0})
            known[name] = outcome(out, runs.train_sft(config, dropout_model, examples, out))
        return known[name]

    return get


@pytest.fixture(scope="module")
def without_dropout(
    local_ray: None, model: Path, examples: Location, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """Folder of an undisturbed run of each layout in which rounding is all that layouts differ by; `notes` in it."""
    known: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in known:
            out = known[name] = tmp_path_factory.mktemp(name)
            config = runs.make_config(model, sft={**RUN, **LAYOUTS[name], "checkpoint_every_steps": 0})
            runs.train_sft(config, model, examples, out, dying([], out / "notes"))
        return known[name]

    return get


def complete_steps(out: Path) -> list[int]:
    places = (out / "scratch" / "checkpoints").glob("*/step-*/checkpoint.json")
    return sorted(int(place.parent.name.split("-")[1]) for place in places)


IN_FIT = [Kill(1, 3), Kill(0, 4, "before-commit"), Kill(0, 6, "after-commit")]


@pytest.mark.parametrize(
    ("layout", "kills", "resumed", "num_redone"),
    [
        ("zero-1", IN_FIT, [2, 2, 6], 1 + 2 + 0),
        pytest.param("plain", [Kill(0, 5)], [4], 1, marks=pytest.mark.slow),
        pytest.param("zero-3", IN_FIT, [2, 2, 6], 1 + 2 + 0, marks=pytest.mark.slow),
        pytest.param(
            "zero-3", [Kill(1, 0), Kill(1, 2, "upload"), Kill(0, 2, "before-commit"), Kill(1, 8)], [8], 0 + 2 + 2 + 0,
            marks=pytest.mark.slow,
        ),
        pytest.param("zero-2", [Kill(1, 3), Kill(1, 8, "upload")], [2, 6], 1 + 2, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_a_killed_rank_changes_nothing(
    undisturbed, dropout_model, examples, layout, kills, resumed, num_redone, tmp_path
):
    expected = undisturbed(layout)
    out, notes = tmp_path / "out", tmp_path / "notes"
    config = runs.make_config(dropout_model, sft={**RUN, **LAYOUTS[layout], "max_failures": len(kills)})
    result = runs.train_sft(config, dropout_model, examples, out, dying(kills, notes))
    assert len(list(notes.glob("killed-*"))) == len(kills)
    assert outcome(out, result) == expected
    assert len(expected.losses) == NUM_STEPS
    assert all(len(rows) == 1 for rows in rows_seen(notes).values())
    summary = result.summary
    assert (summary["num_attempts"], summary["resumed_after_steps"]) == (1 + len(kills), resumed)
    assert summary["num_steps_redone"] == num_redone
    assert complete_steps(out) == [6, 8]
    assert {path.name for path in (out / "scratch").iterdir()} <= {
        "attempts",
        "checkpoints",
        "tokens.parquet",
        "writing",
    }
    assert not list((out / "scratch" / "writing").iterdir())


@pytest.mark.slow
def test_the_model_of_these_tests_draws_random_numbers(undisturbed, without_dropout):
    """Same weights, same rows: what differs is what is drawn, so a state that is not restored would show."""
    drawn = [float.fromhex(loss) for loss in undisturbed("zero-1").losses]
    steady = [line["loss"] for line in read_metrics(locate(without_dropout("zero-1") / "metrics.jsonl"))]
    assert max(abs(one - other) for one, other in zip(drawn, steady, strict=True)) > 1e-3


def newest(out: Path) -> Path:
    return max((out / "scratch" / "checkpoints").glob("*/step-*"), key=lambda folder: folder.name)


@pytest.mark.slow
def test_a_new_driver_goes_on_past_a_damaged_checkpoint(undisturbed, dropout_model, examples, tmp_path):
    """Workers fail too often, the newest checkpoint is cut, Ray Train's own files are broken, and run again."""
    expected = undisturbed("zero-3")
    out, notes = tmp_path / "out", tmp_path / "notes"
    config = runs.make_config(dropout_model, sft={**RUN, **LAYOUTS["zero-3"], "max_failures": 0})
    with pytest.raises(ModelError, match=r"last step that was logged is 7 of 9; the last error, of rank 1") as raised:
        runs.train_sft(config, dropout_model, examples, out, dying([Kill(1, 7)], notes))
    assert raised.value.code == "WRPO-T001"
    assert complete_steps(out) == [4, 6]
    damaged = newest(out)
    victim = damaged / "engine" / "zero_pp_rank_1_mp_rank_00_optim_states.pt"
    victim.write_bytes(victim.read_bytes()[:-100])
    # Ray Train's own state (F10): none is left, and a cut one from anywhere is never looked at.
    assert not list((out / "scratch").glob("ray-train-*"))
    cut = out / "scratch" / "ray-train-old" / "sft-0" / "checkpoint_manager_snapshot.json"
    cut.parent.mkdir(parents=True)
    cut.write_text('{"checkpoint_results": [{"chec')
    result = runs.train_sft(config, dropout_model, examples, out, dying([], notes))
    assert outcome(out, result) == expected
    assert all(len(rows) == 1 for rows in rows_seen(notes).values())
    assert (result.summary["resumed_after_steps"], result.summary["num_steps_redone"]) == ([4], 3)
    [skipped] = result.summary["checkpoints_skipped"]
    assert skipped["name"] == damaged.name
    assert "optim_states.pt has" in skipped["reason"]
    assert "bytes instead of" in skipped["reason"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("zero-1", "zero-1-alone"),
        ("zero-1-alone", "zero-1"),
        ("zero-3", "zero-3-alone"),
        ("zero-3-alone", "zero-3"),
        ("zero-3", "zero-1-alone"),
        ("zero-1", "zero-3"),
        ("zero-2", "zero-3-alone"),
    ],
)
def test_another_number_of_workers_goes_on_with_the_same_rows(
    without_dropout, model, examples, before, after, tmp_path
):
    whole = without_dropout(before)
    out, notes = tmp_path / "out", tmp_path / "notes"
    stopped = runs.make_config(model, sft={**RUN, **LAYOUTS[before], "max_failures": 0})
    with pytest.raises(ModelError, match="training workers failed 1 times"):
        runs.train_sft(stopped, model, examples, out, dying([Kill(0, 5)], notes))
    moved = runs.make_config(model, sft={**RUN, **LAYOUTS[after]})
    result = runs.train_sft(moved, model, examples, out, dying([], tmp_path / "after-notes"))
    assert result.summary["resumed_after_steps"] == [4]
    assert step_rows(tmp_path / "after-notes", 4) == step_rows(whole / "notes", 4)
    expected, found = (read_metrics(locate(folder / "metrics.jsonl")) for folder in (whole, out))
    for name in ("loss", "grad_norm"):
        largest = max(abs(a[name] / b[name] - 1) for a, b in zip(found, expected, strict=True))
        print(f"{name}: largest relative difference {largest:.2e}")
        assert [line[name] for line in found] == pytest.approx([line[name] for line in expected], rel=1e-5)
    assert [line["learning_rate"] for line in found] == [line["learning_rate"] for line in expected]


def step_rows(notes: Path, first_step: int) -> dict[int, list[int]]:
    """Return the real and repeated rows of each global step from `first_step`, over all ranks."""
    rows: dict[int, set[int]] = {}
    for (_, step), seen in rows_seen(notes).items():
        for micros in seen:
            rows.setdefault(step, set()).update(row for micro in json.loads(micros) for row in micro)
    return {step: sorted(values) for step, values in sorted(rows.items()) if step >= first_step}


@pytest.mark.slow
def test_a_notice_of_preemption_leads_to_a_checkpoint_at_once(undisturbed, dropout_model, examples, tmp_path):
    out, notes = tmp_path / "out", tmp_path / "notes"
    fields = {**RUN, **LAYOUTS["zero-1"], "checkpoint_every_steps": 1000, "max_failures": 1}
    # Whatever is asked for: with a notice there is no time.
    fields["checkpoint_in_background"] = True
    worker = dying([Kill(1, 6)], notes, preempted_at=4)
    result = runs.train_sft(runs.make_config(dropout_model, sft=fields), dropout_model, examples, out, worker)
    assert outcome(out, result) == undisturbed("zero-1")
    # Once, in the step in which the notice came; what was trained after it is done again.
    assert complete_steps(out) == [5]
    assert (result.summary["resumed_after_steps"], result.summary["num_steps_redone"]) == ([5], 1)


@pytest.mark.slow
@pytest.mark.cluster
def test_a_drained_node_costs_less_than_its_warning(undisturbed, dropout_model, examples, tmp_path):
    """Ray's own notice on a real cluster: `max_failures` is 0, so a preemption must not count as a failure."""
    expected = undisturbed("zero-1")
    fields = {**RUN, **LAYOUTS["zero-1"], "checkpoint_every_steps": 1000, "max_failures": 0}
    command = [sys.executable, "-m", "tests.train.drained_run", str(dropout_model), str(examples)]
    done = subprocess.run(
        [*command, str(tmp_path / "out"), json.dumps(fields)], capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    summary = json.loads(done.stdout.splitlines()[-1])
    print(summary)
    assert Outcome((tmp_path / "out" / "metrics.jsonl").read_bytes(), summary["weights"]) == expected
    [resumed] = summary["resumed_after_steps"]
    # No checkpoint was due: the one that was used is the one that the notice led to.
    assert complete_steps(tmp_path / "out") == [resumed]
    assert (summary["num_attempts"], 2 < resumed < NUM_STEPS) == (2, True)


@pytest.mark.slow
def test_a_run_in_a_bucket_is_killed_and_goes_on(undisturbed, dropout_model, examples, tmp_path, monkeypatch):
    expected = undisturbed("zero-1")
    notes = tmp_path / "notes"
    fields = {**RUN, **LAYOUTS["zero-1"], "max_failures": 2}
    kills = [Kill(1, 4, "upload"), Kill(0, 7)]
    with running_server() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        out = locate(f"s3://{server.new_bucket()}/sft")
        worker = dying(kills, notes, environment=server.environment)
        with server.failing(Fault("slow_down", probability=0.05), Fault("lost_reply", probability=0.02)) as met:
            result = runs.train_sft(runs.make_config(dropout_model, sft=fields), dropout_model, examples, out, worker)
        assert met.total() > 5
        weights = {entry.path: entry.sha256 for entry in result.files}["model/model.safetensors"]
        assert Outcome((out / "metrics.jsonl").read_bytes(), weights) == expected
        assert hashlib.sha256((out / "model" / "model.safetensors").read_bytes()).hexdigest() == weights
        names = {place.relative_to(out).split("/")[3] for place in (out / "scratch" / "checkpoints").walk()}
        assert sorted(int(name.split("-")[1]) for name in names) == [6, 8]
    assert result.summary["resumed_after_steps"] == [2, 6]
    assert not node_root(str(out)).exists()
