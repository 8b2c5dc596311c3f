"""The metrics file: every step once, whatever was written before; TensorBoard beside it."""

import hashlib
import json

import pytest

from tests.train import runs
from wrpo_ray.config import ModelFiles, TrackingConfig
from wrpo_ray.events import TrainingAt, listening, within
from wrpo_ray.storage.location import Location, locate
from wrpo_ray.storage.manifest import FileEntry
from wrpo_ray.storage.stores import LocalStore
from wrpo_ray.train import metrics
from wrpo_ray.train.job import TrainJob
from wrpo_ray.train.metrics import MetricsWriter, NewLines, followed, read_metrics


def job(out, **tracking):
    return TrainJob(
        kind="sft", run_name="test", seed=1, train=runs.make_config(out).sft, model=ModelFiles(path=str(out)),
        tokens=FileEntry("tokens.parquet", 1, "0" * 64, 8), num_rows=8, pad_token_id=0, out=str(out),
        tracking=TrackingConfig(**tracking),
    )  # fmt: skip


def lines(*numbered):
    return "".join(json.dumps({"step": step, "loss": loss}) + "\n" for step, loss in numbered)


def test_a_resumed_run_starts_from_the_history_of_its_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(lines((1, 9.0), (2, 9.0), (3, 9.0)) + '{"step": 4, "lo')
    assert [line["step"] for line in read_metrics(locate(path))] == [1, 2, 3]
    writer = MetricsWriter(job(tmp_path), lines((1, 9.0), (2, 9.0)), tmp_path)
    writer.write(3, {"loss": 1.0})
    entry = writer.close()
    assert path.read_text() == lines((1, 9.0), (2, 9.0), (3, 1.0))
    content = path.read_bytes()
    assert entry == FileEntry("metrics.jsonl", len(content), hashlib.sha256(content).hexdigest(), None)
    assert [line["step"] for line in read_metrics(locate(path), after_step=1)] == [2, 3]


class CountingStore(LocalStore):
    """Takes whole files only, as an object store does, and counts them."""

    def __init__(self):
        self.writes = []

    def write(self, key, content):
        self.writes.append(len(content))
        super().write(key, content)


def test_an_object_store_is_not_written_to_with_every_step(tmp_path, monkeypatch):
    store = CountingStore()
    monkeypatch.setattr(Location, "local_path", property(lambda self: None))
    monkeypatch.setattr(TrainJob, "folder", property(lambda self: Location(store, str(tmp_path))))
    writer = MetricsWriter(job(tmp_path), "", tmp_path)
    for step in range(1, 101):
        writer.write(step, {"loss": 0.5})
    assert len(store.writes) == 1
    writer.close()
    assert len(store.writes) == 2
    assert len(read_metrics(Location(store, f"{tmp_path}/metrics.jsonl"))) == 100
    monkeypatch.setattr(metrics, "_STORE_SECONDS", -1.0)
    writer.write(101, {"loss": 0.5})
    assert len(store.writes) == 3


def test_tensorboard_holds_the_history_too_and_every_step_once(tmp_path):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    writer = MetricsWriter(job(tmp_path, tensorboard=True), lines((1, 0.75)), tmp_path)
    writer.write(2, {"loss": 0.5, "rewards/margins": 0.25})
    writer.close()
    events = event_accumulator.EventAccumulator(str(writer.tensorboard))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 0.75), (2, 0.5)]
    assert [(event.step, event.value) for event in events.Scalars("rewards/margins")] == [(2, 0.25)]


def test_the_driver_logs_every_line_without_a_terminal(tmp_path, caplog):
    with caplog.at_level("INFO"), followed(locate(tmp_path / "metrics.jsonl"), "sft", 2):
        writer = MetricsWriter(job(tmp_path), "", tmp_path)
        writer.write(1, {"loss": 0.5})
        writer.write(2, {"loss": 0.25})
        writer.close()
    assert [record.getMessage() for record in caplog.records] == [
        "sft: step 1 of 2  loss 0.5",
        "sft: step 2 of 2  loss 0.25",
    ]


def test_a_job_survives_its_way_to_the_workers(tmp_path):
    sent = job(tmp_path)
    assert TrainJob.model_validate(json.loads(sent.model_dump_json())) == sent


def test_the_digest_names_the_trajectory_and_nothing_else(tmp_path):
    one = job(tmp_path)
    spread = one.train.model_copy(
        update={"num_workers": 4, "micro_batch_tokens": 1, "zero_stage": 3, "max_failures": 9}
    )
    moved = one.model_copy(update={"train": spread, "run_name": "other", "out": "/elsewhere"})
    assert moved.digest == one.digest
    changed = [
        one.model_copy(update={"seed": 2}),
        one.model_copy(update={"tokens": FileEntry("tokens.parquet", 1, "1" * 64, 8)}),
        one.model_copy(update={"train": one.train.model_copy(update={"learning_rate": 0.5})}),
        one.model_copy(update={"train": one.train.model_copy(update={"global_batch_size": 8})}),
    ]
    assert len({one.digest, *(other.digest for other in changed)}) == 5


def heard_while(body, folder, num_steps):
    heard = []
    listener = listening(lambda step, event: heard.append((step, event)))
    with listener, within("sft"), followed(locate(folder / "metrics.jsonl"), "sft", num_steps):
        body()
    assert {step for step, _ in heard} == {"sft"}
    return [event for _, event in heard]


def test_whoever_listens_hears_of_training_from_where_it_goes_on(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(lines((1, 9.0), (2, 8.0), (3, 7.0)))

    def train():
        writer = MetricsWriter(job(tmp_path), lines((1, 9.0), (2, 8.0)), tmp_path)
        for step in (3, 4):
            writer.write(step, {"loss": 1.0 / step, "num_tokens": 100})
        writer.close()

    found, *_, last = heard_while(train, tmp_path, 8)
    # The file was there: step 3 of an earlier start is what it goes on from, whatever is done again.
    assert found == TrainingAt(3, 8, 0, {})
    assert last == TrainingAt(4, 8, 100, {"loss": 0.25, "num_tokens": 100})


def test_a_growing_metrics_file_is_not_read_again_and_a_replaced_one_is(tmp_path):
    path = tmp_path / "metrics.jsonl"
    new = NewLines(locate(path))
    assert new.read() == []
    path.write_text(lines((1, 1.0), (2, 1.0)))
    assert [each["step"] for each in new.read()] == [1, 2]
    with path.open("a") as stream:
        stream.write(lines((3, 1.0)) + '{"step": 4, "lo')
    assert [each["step"] for each in new.read()] == [3]
    with path.open("a") as stream:
        stream.write('ss": 1.0}\n')
    assert [each["step"] for each in new.read()] == [4]
    assert new.read() == []
    # Damage what was read: nobody looks at it again.
    with path.open("r+") as stream:
        stream.write("x" * 10)
    assert new.read() == []
    # A worker that restarts replaces the file by the history of its checkpoint, which may be longer by the next look.
    other = tmp_path / "other"
    other.write_text(lines(*((step, 2.0) for step in range(1, 9))))
    other.replace(path)
    assert [each["step"] for each in new.read()] == list(range(1, 9))
