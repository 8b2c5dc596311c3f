"""Training metrics: metrics.jsonl always, TensorBoard, W&B and MLflow when asked. Rank 0 writes, the driver follows."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from wrpo_ray.storage import write_bytes
from wrpo_ray.train.job import TrainJob

log = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"
_FOLLOW_SECONDS = 0.5

Metrics = Mapping[str, float | int]
Sink = Callable[[int, Metrics], None]


class MetricsWriter:
    """Writes one line per logged step.

    A resumed run first drops the lines of steps that it is about to repeat.
    """

    def __init__(self, job: TrainJob, first_step: int) -> None:
        self.path = Path(job.out) / METRICS_FILE
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True) if self.path.exists() else []
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= first_step]
        write_bytes(self.path, "".join(kept).encode("utf-8"))
        self._closers: list[Callable[[], Any]] = []
        self._sinks = list(self._open_sinks(job))

    def write(self, step: int, metrics: Metrics) -> None:
        """Log the metrics of optimizer step `step`, counted from 1."""
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": step, **metrics}) + "\n")
        for sink in self._sinks:
            sink(step, metrics)

    def close(self) -> None:
        """Let every tracker finish its writing."""
        for closer in self._closers:
            closer()

    def _open_sinks(self, job: TrainJob) -> Iterator[Sink]:
        if job.tracking.tensorboard:
            yield self._tensorboard(job)
        if job.tracking.wandb_project is not None:
            yield self._wandb(job, job.tracking.wandb_project)
        if job.tracking.mlflow_tracking_uri is not None:
            yield self._mlflow(job, job.tracking.mlflow_tracking_uri)

    def _tensorboard(self, job: TrainJob) -> Sink:
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(str(Path(job.out) / "tensorboard"))
        self._closers.append(writer.close)

        def write(step: int, metrics: Metrics) -> None:
            for name, value in metrics.items():
                writer.add_scalar(name, value, step)

        return write

    def _wandb(self, job: TrainJob, project: str) -> Sink:
        import wandb  # pyright: ignore[reportMissingImports]

        # The id is derived, so a resumed worker goes on with the same run.
        run = wandb.init(
            project=project, name=f"{job.run_name}-{job.kind}", id=f"{job.run_name}-{job.ray_train_name}",
            resume="allow", dir=job.out, config=job.train.model_dump(mode="json"),
        )  # fmt: skip
        self._closers.append(run.finish)
        return lambda step, metrics: run.log(dict(metrics), step=step)

    def _mlflow(self, job: TrainJob, tracking_uri: str) -> Sink:
        import mlflow  # pyright: ignore[reportMissingImports]

        mlflow.set_tracking_uri(tracking_uri)
        mlflow.set_experiment(job.run_name)
        mlflow.start_run(run_name=job.kind)
        mlflow.log_params(job.train.model_dump(mode="json"))
        self._closers.append(mlflow.end_run)
        return lambda step, metrics: mlflow.log_metrics(
            {key: float(value) for key, value in metrics.items()}, step=step
        )


@contextmanager
def followed(path: Path, title: str, num_steps: int) -> Iterator[None]:
    """Show the growing metrics file while the body runs: a bar on a terminal, log lines otherwise."""
    stopped = threading.Event()
    shown = _BarView(title, num_steps) if sys.stderr.isatty() else _LogView(title, num_steps)
    thread = threading.Thread(target=_follow, args=(path, shown, stopped), name="follow-metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
        shown.close()


class _LogView:
    def __init__(self, title: str, num_steps: int) -> None:
        self.title, self.num_steps = title, num_steps

    def show(self, metrics: Mapping[str, Any]) -> None:
        log.info("%s: step %d of %d  %s", self.title, metrics["step"], self.num_steps, _short(metrics))

    def close(self) -> None:
        """Nothing is open."""


class _BarView:
    def __init__(self, title: str, num_steps: int) -> None:
        self.bar = tqdm(total=num_steps, desc=title, unit="step")

    def show(self, metrics: Mapping[str, Any]) -> None:
        self.bar.n = metrics["step"]
        self.bar.set_postfix_str(_short(metrics))

    def close(self) -> None:
        self.bar.close()


def _short(metrics: Mapping[str, Any]) -> str:
    names = ("loss", "grad_norm", "learning_rate", "alpha", "rewards/margins", "rewards/accuracies")
    return "  ".join(f"{name} {metrics[name]:.4g}" for name in names if name in metrics)


def _follow(path: Path, shown: _LogView | _BarView, stopped: threading.Event) -> None:
    last_step = 0
    while True:
        # Read once more after the end: the last lines may have come since the last look.
        finished = stopped.wait(_FOLLOW_SECONDS)
        for metrics in read_metrics(path):
            if metrics["step"] > last_step:
                last_step = metrics["step"]
                shown.show(metrics)
        if finished:
            return


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the complete lines of a metrics file; none when there is no file yet."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]
