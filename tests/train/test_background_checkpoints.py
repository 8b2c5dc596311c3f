"""Checkpoints that are stored while training goes on: by themselves, with a store that is slow or fails."""

from __future__ import annotations

import copy
import threading
import time
from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch

from tests.train import runs, test_resume
from tests.train.crashing import Kill, dying
from tests.train.test_checkpoints import ALONE, Room, ThreadRanks
from wrpo_ray.config import ModelFiles, TrackingConfig
from wrpo_ray.errors import StorageError
from wrpo_ray.storage.manifest import FileEntry
from wrpo_ray.train import resume
from wrpo_ray.train.background import CheckpointWriter
from wrpo_ray.train.checkpoints import Opened, checkpoint_names, open_newest, remove_incomplete
from wrpo_ray.train.job import TrainJob
from wrpo_ray.train.snapshot import copied

LAYOUT = {"world_size": 1, "zero_stage": 0}
WAIT_S = 120.0


class Engine:
    """What DeepSpeed's engine is to a checkpoint: state that the next step changes in place, and a place to save it."""

    def __init__(self, uploads, rank=0):
        self.rank = rank
        self.weights = torch.zeros(3)
        self.checkpoint_engine = SimpleNamespace(save=uploads.save)

    def train_step(self):
        self.weights += 1

    def save_checkpoint(self, folder, tag, **_):
        self.checkpoint_engine.save({"weights": self.weights}, f"{folder}/{tag}/rank-{self.rank}.pt")


class Uploads:
    """The store's side of `resume.upload_folder`: holds everything back until it is let through, or breaks it."""

    def __init__(self, monkeypatch):
        self.events, self.gate, self.broken = [], threading.Event(), None
        real_upload, real_commit = resume.upload_folder, resume.commit_checkpoint

        def upload(source, destination):
            assert self.gate.wait(WAIT_S)
            if self.broken and (source / self.broken).exists():
                raise StorageError("the store is full", code="WRPO-S002")
            entries = real_upload(source, destination)
            self.events.append("stored")
            return entries

        def commit(folder, step, *arguments):
            real_commit(folder, step, *arguments)
            self.events.append(f"committed {step}")

        monkeypatch.setattr(resume, "upload_folder", upload)
        monkeypatch.setattr(resume, "commit_checkpoint", commit)

    def save(self, state, path):
        """Write as DeepSpeed's checkpoint engine does, on a disk that is as slow as the store."""
        assert self.gate.wait(WAIT_S)
        torch.save(state, path)


@pytest.fixture
def uploads(monkeypatch):
    found = Uploads(monkeypatch)
    yield found
    # A thread that waits would keep this process from ending.
    found.gate.set()


def make_job(out):
    return TrainJob(
        kind="sft", run_name="test", seed=1, train=runs.make_config(out).sft, model=ModelFiles(path=str(out)),
        tokens=FileEntry("tokens.parquet", 1, "0" * 64, 8), num_rows=8, pad_token_id=0, out=str(out),
        tracking=TrackingConfig(),
    )  # fmt: skip


def make_writer(out, ranks=ALONE):
    job = make_job(out)
    attempt = resume.Attempt("abc", out / "writing" / "abc", Opened(None, None, ()))
    return job, CheckpointWriter(job, ranks, attempt, LAYOUT)


def stored_weights(job, out, step):
    opened = open_newest(job.checkpoints, ALONE, out / "opened")
    assert opened.checkpoint is not None
    assert (opened.checkpoint.step, opened.skipped) == (step, ())
    assert {entry.path for entry in opened.checkpoint.files} == {
        "engine/rank-0.pt", "metrics.jsonl", "random-rank-00000.pt",
    }  # fmt: skip
    return torch.load(opened.path / "engine" / "rank-0.pt")["weights"].tolist()


def test_steps_go_on_while_a_slow_store_takes_the_state_as_it_was(uploads, tmp_path):
    job, writer = make_writer(tmp_path)
    engine = Engine(uploads)
    for step in range(1, 7):
        engine.train_step()
        writer.poll()
        uploads.events.append(f"step {step}")
        if step == 2:
            writer.save(engine, step, "metrics", in_background=True)
        if step == 4:
            assert checkpoint_names(job.checkpoints) == {}
            uploads.gate.set()
    writer.finish()
    assert uploads.events[:4] == ["step 1", "step 2", "step 3", "step 4"]
    assert uploads.events.index("stored") < uploads.events.index("committed 2")
    assert stored_weights(job, tmp_path, 2) == [2.0, 2.0, 2.0]
    assert not list((tmp_path / "writing" / "abc").iterdir())
    writer.abandon()


def test_the_next_one_waits_for_the_one_in_flight(uploads, tmp_path):
    job, writer = make_writer(tmp_path)
    engine = Engine(uploads)
    opener = threading.Timer(0.3, uploads.gate.set)
    for step in (1, 2, 3):
        engine.train_step()
        writer.save(engine, step, "", in_background=True)
        if step == 1:
            opener.start()
    writer.finish()
    assert uploads.events == [event for step in (1, 2, 3) for event in ("stored", f"committed {step}")]
    assert stored_weights(job, tmp_path, 3) == [3.0, 3.0, 3.0]
    # Two are kept, as without a background.
    assert [name[:13] for name in checkpoint_names(job.checkpoints)] == ["step-00000003", "step-00000002"]


@pytest.mark.parametrize("in_flight", [False, True])
def test_one_that_cannot_wait_is_whole_when_save_returns(uploads, in_flight, tmp_path):
    """What a notice of preemption asks for, with and without an older checkpoint on its way."""
    job, writer = make_writer(tmp_path)
    engine = Engine(uploads)
    if in_flight:
        writer.save(engine, 3, "", in_background=True)
    uploads.gate.set()
    engine.train_step()
    writer.save(engine, 4, "", in_background=False)
    assert uploads.events[-1] == "committed 4"
    assert stored_weights(job, tmp_path, 4) == [1.0, 1.0, 1.0]


def on_two_ranks(body):
    """Run body(ranks) on two ranks in threads and return what each raised, or None."""
    room, raised = Room(2), [None, None]

    def run(rank):
        try:
            body(ThreadRanks(rank, 2, rank, 2, room))
        except (StorageError, AssertionError) as error:
            raised[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    return raised


def test_two_ranks_commit_once_with_the_files_of_both(uploads, tmp_path):
    def body(ranks):
        _, writer = make_writer(tmp_path, ranks)
        engine = Engine(uploads, ranks.rank)
        writer.save(engine, 2, "", in_background=True)
        for _ in range(3):
            engine.train_step()
            writer.poll()
        assert "committed 2" not in uploads.events
        uploads.gate.set()
        writer.finish()

    assert on_two_ranks(body) == [None, None]
    assert uploads.events == ["stored", "stored", "committed 2"]
    opened = open_newest(make_job(tmp_path).checkpoints, ALONE, tmp_path)
    assert opened.checkpoint is not None
    assert [entry.path for entry in opened.checkpoint.files if entry.path.startswith("engine/")] == [
        "engine/rank-0.pt", "engine/rank-1.pt",
    ]  # fmt: skip


def test_an_error_of_one_ranks_store_ends_training_on_all_after_the_same_step(uploads, tmp_path):
    uploads.broken = "random-rank-00001.pt"
    steps = []

    def body(ranks):
        _, writer = make_writer(tmp_path, ranks)
        engine = Engine(uploads, ranks.rank)
        writer.save(engine, 2, "", in_background=True)
        uploads.gate.set()
        for step in range(3, 100_000):
            engine.train_step()
            writer.poll()
            steps.append((step, ranks.rank))

    raised = on_two_ranks(body)
    assert [(error.code, error.message) for error in raised] == [("WRPO-S002", "the store is full")] * 2
    # As many steps on the one rank as on the other.
    assert len(steps) % 2 == 0
    job = make_job(tmp_path)
    assert set(checkpoint_names(job.checkpoints).values()) <= {False}
    assert not [event for event in uploads.events if event.startswith("committed")]


def test_what_dies_in_flight_is_no_checkpoint_and_the_older_one_is_used(uploads, tmp_path):
    job, writer = make_writer(tmp_path)
    engine = Engine(uploads)
    uploads.gate.set()
    writer.save(engine, 2, "", in_background=False)
    engine.train_step()
    writer.save(engine, 4, "", in_background=True)
    deadline = time.monotonic() + WAIT_S
    while uploads.events.count("stored") < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    # All files are stored, and no step ends any more.
    writer.abandon()
    assert [name[:13] for name in remove_incomplete(job.checkpoints)] == ["step-00000004"]
    assert stored_weights(job, tmp_path, 2) == [0.0, 0.0, 0.0]


def test_a_copy_keeps_what_it_is_of_and_nothing_else():
    weight = torch.arange(12.0).reshape(3, 4)
    state = {
        "two names": OrderedDict(a=weight, b=weight[:]), "part": weight[1:, 2], "transposed": weight.t(),
        "empty": [torch.empty(0), torch.empty(0, 3)], "settings": {"lr": [0.1]}, "scaler": SimpleNamespace(scale=2.0),
        "shape": weight.shape,
    }  # fmt: skip
    before = copy.deepcopy(state)
    found = copied(state, {})
    weight.add_(100.0)
    state["settings"]["lr"][0] = 0.2
    state["scaler"].scale = 4.0
    assert found["two names"]["a"] is found["two names"]["b"]
    assert type(found["two names"]) is OrderedDict
    assert found["part"].untyped_storage().nbytes() == 2 * 4
    for path in ("part", "transposed"):
        assert torch.equal(found[path], before[path])
    assert torch.equal(found["two names"]["a"], before["two names"]["a"])
    assert [tuple(each.shape) for each in found["empty"]] == [(0,), (0, 3)]
    assert (found["settings"], found["scaler"], found["shape"]) == ({"lr": [0.1]}, SimpleNamespace(scale=2.0), (3, 4))


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["plain", "zero-1", "zero-3"])
def test_kills_while_training_goes_on_change_nothing(local_ray, examples, layout, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.25")
    model = runs.save_dropout_model(tmp_path / "model")
    fields = {**test_resume.RUN, **test_resume.LAYOUTS[layout], "checkpoint_in_background": True}
    undisturbed = runs.make_config(model, sft={**fields, "checkpoint_every_steps": 0})
    expected = test_resume.outcome(tmp_path / "a", runs.train_sft(undisturbed, model, examples, tmp_path / "a"))
    last = fields["num_workers"] - 1
    kills = [Kill(0, 2, "before-commit"), Kill(last, 5), Kill(0, 6, "after-commit")]
    config = runs.make_config(model, sft={**fields, "max_failures": len(kills)})
    result = runs.train_sft(config, model, examples, tmp_path / "b", dying(kills, tmp_path / "notes"))
    assert len(list((tmp_path / "notes").glob("killed-*"))) == len(kills)
    assert test_resume.outcome(tmp_path / "b", result) == expected
    # At most two intervals each: the one behind the checkpoint in flight, and the one in which it was stored.
    assert result.summary["num_steps_redone"] <= 4 * len(kills)
    assert test_resume.complete_steps(tmp_path / "b") == [6, 8]
