"""Checkpoints by themselves (P-27): whole or skipped with a reason, newest by step, pruned by a stated rule."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import threading
from dataclasses import dataclass

import numpy
import pytest
import torch

from wrpo_ray.errors import StorageError
from wrpo_ray.storage.location import Location, locate
from wrpo_ray.storage.manifest import FileEntry
from wrpo_ray.train.attempts import AttemptNews, attempts_summary, tell_attempt
from wrpo_ray.train.checkpoints import (
    checkpoint_name,
    checkpoint_names,
    commit_checkpoint,
    open_newest,
    prune,
    remove_incomplete,
)
from wrpo_ray.train.files import remove_other_attempts
from wrpo_ray.train.random_state import load_random_state, save_random_state
from wrpo_ray.train.ranks import Ranks
from wrpo_ray.train.universal import fits, require_convertible

ALONE = Ranks(0, 1, 0, 1)


def write(root, step, attempt="a", complete=True):
    folder = root / checkpoint_name(step, attempt)
    entries = []
    for name in ("engine/rank-0.pt", "engine/rank-1.pt", "metrics.jsonl"):
        content = f"{name} of step {step}".encode() * 50
        (folder / name).write_bytes(content)
        entries.append(FileEntry(name, len(content), hashlib.sha256(content).hexdigest(), None))
    if complete:
        commit_checkpoint(folder, step, entries, {"world_size": 2})
    return folder


def cut(folder):
    path = (folder / "engine/rank-1.pt").local_path
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(folder):
    path = (folder / "engine/rank-0.pt").local_path
    content = bytearray(path.read_bytes())
    content[7] ^= 1
    path.write_bytes(content)


def cut_marker(folder):
    path = (folder / "checkpoint.json").local_path
    path.write_bytes(path.read_bytes()[:40])


def change_marker(folder):
    path = (folder / "checkpoint.json").local_path
    path.write_text(path.read_text().replace('"world_size": 2', '"world_size": 4'))


def empty_marker(folder):
    (folder / "checkpoint.json").local_path.write_bytes(b"")


def other_marker(folder):
    (folder / "checkpoint.json").local_path.write_text('["not", "one"]')


def older_marker(folder):
    (folder / "checkpoint.json").delete()
    (folder / "checkpoint.json").create_sealed({"step": 6})


DAMAGE = {
    cut: "engine/rank-1.pt has 1299 bytes instead of 1300",
    flip_a_bit: "engine/rank-0.pt was changed after it was written",
    lambda folder: (folder / "metrics.jsonl").delete(): "metrics.jsonl is missing",
    cut_marker: "checkpoint.json was cut or changed after it was written",
    empty_marker: "checkpoint.json was cut or changed after it was written",
    change_marker: "checkpoint.json was cut or changed after it was written",
    other_marker: "checkpoint.json was cut or changed after it was written",
    older_marker: "checkpoint.json is none of this version",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_skipped_with_its_reason_and_removed(damage, tmp_path):
    root = locate(tmp_path / "checkpoints")
    for step in (4, 6):
        write(root, step)
    damage(root / "step-00000006-a")
    opened = open_newest(root, ALONE, tmp_path)
    assert opened.checkpoint is not None
    assert (opened.checkpoint.step, opened.checkpoint.state) == (4, {"world_size": 2})
    [skipped] = opened.skipped
    assert skipped.name == "step-00000006-a"
    assert skipped.reason.startswith(DAMAGE[damage])
    assert list(checkpoint_names(root)) == ["step-00000004-a"]


def test_a_marker_that_is_missing_means_that_there_is_no_checkpoint(tmp_path):
    root = locate(tmp_path)
    write(root, 2)
    write(root, 4, complete=False)
    assert checkpoint_names(root) == {"step-00000004-a": False, "step-00000002-a": True}
    opened = open_newest(root, ALONE, tmp_path)
    assert opened.checkpoint is not None
    assert (opened.checkpoint.step, opened.skipped) == (2, ())
    assert remove_incomplete(root) == ["step-00000004-a"]
    assert list(checkpoint_names(root)) == ["step-00000002-a"]


def test_all_damaged_leaves_nothing_and_says_so_of_each(tmp_path):
    root = locate(tmp_path)
    for step in (2, 4):
        cut(write(root, step))
    opened = open_newest(root, ALONE, tmp_path)
    assert opened.checkpoint is None
    assert [skipped.name for skipped in opened.skipped] == ["step-00000004-a", "step-00000002-a"]
    assert checkpoint_names(root) == {}


def test_the_newest_is_so_by_step_and_never_by_time(tmp_path):
    root = locate(tmp_path)
    for step in (100, 9, 20):
        folder = write(root, step)
        # The later the step, the older by the clock.
        os.utime((folder / "checkpoint.json").local_path, (2e9 - step, 2e9 - step))
    opened = open_newest(root, ALONE, tmp_path)
    assert opened.checkpoint is not None
    assert opened.checkpoint.step == 100
    assert prune(root, 2) == ["step-00000009-a"]
    assert list(checkpoint_names(root)) == ["step-00000100-a", "step-00000020-a"]


def test_pruning_leaves_what_is_being_written(tmp_path):
    root = locate(tmp_path)
    for step in (2, 4, 6):
        write(root, step)
    write(root, 8, "b", complete=False)
    assert prune(root, 1) == ["step-00000004-a", "step-00000002-a"]
    assert checkpoint_names(root) == {"step-00000008-b": False, "step-00000006-a": True}


def test_a_checkpoint_is_never_written_over(tmp_path):
    folder = write(locate(tmp_path), 2)
    with pytest.raises(StorageError, match="is there already"):
        commit_checkpoint(folder, 2, [], {"other": 1})


def test_a_store_that_fails_is_no_reason_to_give_steps_up(tmp_path, monkeypatch):
    root = locate(tmp_path)
    write(root, 2)

    def fail(self):
        raise StorageError("the store is away", code="WRPO-S001")

    monkeypatch.setattr(Location, "read_sealed", fail)
    with pytest.raises(StorageError, match="is away"):
        open_newest(root, ALONE, tmp_path)
    assert list(checkpoint_names(root)) == ["step-00000002-a"]


class Room:
    """Where ranks in threads of one process meet."""

    def __init__(self, size):
        self.values = [None] * size
        self.barrier = threading.Barrier(size)


@dataclass(frozen=True)
class ThreadRanks(Ranks):
    room: Room = None

    def gathered(self, value):
        self.room.values[self.rank] = value
        self.room.barrier.wait()
        values = list(self.room.values)
        self.room.barrier.wait()
        return values

    def first(self, value):
        return self.gathered(value)[0]


@pytest.mark.parametrize("is_local", [True, False])
def test_ranks_share_the_hashing_and_agree(is_local, tmp_path, monkeypatch):
    root = locate(tmp_path / "store")
    for step in (2, 4):
        write(root, step)
    flip_a_bit(root / "step-00000004-a")
    hashed = []
    real = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda stream, name: hashed.append(stream.name) or real(stream, name))
    if not is_local:
        monkeypatch.setattr(Location, "local_path", property(lambda self: None))
    room, found = Room(2), [None, None]

    def run(rank):
        found[rank] = open_newest(root, ThreadRanks(rank, 2, rank, 2, room), tmp_path / "node")

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1]
    assert (found[0].checkpoint.step, len(found[0].skipped)) == (2, 1)
    # Three files in each of two checkpoints, each hashed by one rank alone.
    assert len(hashed) == len(set(hashed)) == 6
    assert (found[0].path / "engine/rank-1.pt").read_bytes() == b"engine/rank-1.pt of step 2" * 50
    assert found[0].path.is_relative_to(tmp_path / ("store" if is_local else "node"))


def test_all_generators_come_back(tmp_path):
    def draw():
        return random.random(), random.gauss(0, 1), numpy.random.standard_normal(3).tolist(), torch.rand(3).tolist()

    # Half of a pair of normal numbers is kept for later by two of the generators.
    draw()
    save_random_state(tmp_path / "state.pt")
    expected = draw()
    assert draw() != expected
    load_random_state(tmp_path / "state.pt")
    assert draw() == expected


def test_starting_over_is_said_loudly_and_going_on_is_not(caplog):
    record = {
        "kind": "sft", "first_step": 0, "checkpoint": None, "num_steps_redone": 7, "other_trainings": [],
        "checkpoints_skipped": [{"name": "step-00000004-a", "reason": "metrics.jsonl is missing"}],
    }  # fmt: skip
    with caplog.at_level("INFO"):
        tell_attempt(record)
        tell_attempt({**record, "first_step": 4, "checkpoint": "step-00000004-b", "checkpoints_skipped": []})
        tell_attempt({**record, "num_steps_redone": 0, "checkpoints_skipped": []})
    assert [(entry.levelno, entry.getMessage()) for entry in caplog.records] == [
        (logging.WARNING, "sft: checkpoint step-00000004-a is skipped: metrics.jsonl is missing"),
        (logging.ERROR, "sft: STARTS AGAIN AT STEP 0: no checkpoint can be used (1 are damaged, those of 0 other"
         " trainings do not fit); 7 steps are done again"),
        (logging.INFO, "sft: goes on after step 4, from step-00000004-b; 7 steps are done again"),
    ]  # fmt: skip


def test_the_driver_tells_of_each_new_attempt_once(tmp_path, caplog):
    scratch = locate(tmp_path)
    record = {
        "kind": "sft", "first_step": 4, "checkpoint": "step-00000004-a", "num_steps_redone": 1, "other_trainings": [],
        "checkpoints_skipped": [{"name": "step-00000006-a", "reason": "it is cut"}],
    }  # fmt: skip
    (scratch / "attempts" / "old.json").write_json({**record, "first_step": 0, "num_steps_redone": 0})
    news = AttemptNews(scratch)
    (scratch / "attempts" / "new.json").write_json(record)
    with caplog.at_level("INFO"):
        news.tell()
        news.tell()
    assert len(caplog.records) == 2
    summary = attempts_summary(scratch)
    assert summary == {
        "num_attempts": 2, "resumed_after_steps": [4], "num_steps_redone": 1,
        "checkpoints_skipped": [{"name": "step-00000006-a", "reason": "it is cut"}],
    }  # fmt: skip
    json.dumps(summary)


def test_dead_attempts_leave_nothing_on_a_node(tmp_path):
    for attempt in ("dead", "other", "own"):
        (tmp_path / attempt).mkdir()
        (tmp_path / attempt / "file").touch()
    remove_other_attempts(tmp_path / "own")
    assert [path.name for path in tmp_path.iterdir()] == ["own"]


def test_a_checkpoint_without_zero_fits_any_number_of_ranks_and_no_other_stage():
    def layout(stage, size):
        return {"zero_stage": stage, "world_size": size}

    assert fits(layout(0, 2), layout(0, 1))
    assert fits(layout(3, 2), layout(3, 2))
    assert not fits(layout(3, 2), layout(3, 1))
    assert not fits(layout(1, 2), layout(2, 2))
    require_convertible(layout(1, 2), layout(3, 1))
    for stored, wanted in ((0, 1), (3, 0)):
        with pytest.raises(ValueError, match="cannot read each other's checkpoints") as raised:
            require_convertible(layout(stored, 2), layout(wanted, 2))
        assert raised.value.code == "WRPO-T005"
