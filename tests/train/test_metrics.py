"""The metrics file: whole lines, cut back to the resumed step; TensorBoard beside it."""

import json

from tests.train import runs
from wrpo_ray.config import ModelFiles, TrackingConfig
from wrpo_ray.train.job import TrainJob
from wrpo_ray.train.metrics import MetricsWriter, followed, read_metrics


def job(out, **tracking):
    return TrainJob(
        kind="sft", run_name="test", seed=1, train=runs.make_config(out).sft, model=ModelFiles(path=str(out)),
        tokens="", num_rows=8, pad_token_id=0, out=str(out), tracking=TrackingConfig(**tracking),
    )  # fmt: skip


def test_a_resumed_run_drops_the_lines_it_repeats(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": step, "loss": 9.0}) + "\n" for step in (1, 2, 3)) + '{"step": 4, "lo')
    assert [line["step"] for line in read_metrics(path)] == [1, 2, 3]
    writer = MetricsWriter(job(tmp_path), first_step=2)
    writer.write(3, {"loss": 1.0})
    writer.close()
    assert read_metrics(path) == [{"step": 1, "loss": 9.0}, {"step": 2, "loss": 9.0}, {"step": 3, "loss": 1.0}]


def test_tensorboard_gets_the_same_numbers(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    writer = MetricsWriter(job(tmp_path, tensorboard=True), first_step=0)
    writer.write(1, {"loss": 0.5, "rewards/margins": 0.25})
    writer.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("rewards/margins")] == [(1, 0.25)]


def test_the_driver_logs_every_line_without_a_terminal(tmp_path, caplog):
    with caplog.at_level("INFO"), followed(tmp_path / "metrics.jsonl", "sft", 2):
        writer = MetricsWriter(job(tmp_path), first_step=0)
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
