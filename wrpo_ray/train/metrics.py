"""Training metrics: metrics.jsonl always, TensorBoard, W&B and MLflow when asked. Rank 0 writes, the driver follows."""

from __future__ import annotations

import contextvars
import hashlib
import json
import logging
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from wrpo_ray.errors import StorageError
from wrpo_ray.events import TrainingAt, emit, heard
from wrpo_ray.storage.location import Location
from wrpo_ray.storage.manifest import FileEntry
from wrpo_ray.train.job import TrainJob

log = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"
TENSORBOARD = "tensorboard"
_FOLLOW_SECONDS = 0.5
# An object store takes whole files only, so the file is written and read less often there.
_STORE_SECONDS = 10.0

Metrics = Mapping[str, float | int]
Sink = Callable[[int, Metrics], None]


class MetricsWriter:
    """Writes one line per logged step; `history` is what the steps before `first_step` wrote.

    A resumed run starts from the history in its checkpoint, so that each step has one line, whatever was written since.
    scratch: folder on this node for trackers that write files.
    """

    def __init__(self, job: TrainJob, history: str, scratch: Path) -> None:
        self.place = job.folder / METRICS_FILE
        self.lines = history.splitlines(keepends=True)
        self._written_at = -math.inf
        self._flush()
        self._closers: list[Callable[[], Any]] = []
        self.tensorboard = scratch / TENSORBOARD
        self._sinks = list(self._open_sinks(job, scratch))

    @property
    def history(self) -> str:
        """All lines so far."""
        return "".join(self.lines)

    def write(self, step: int, metrics: Metrics) -> None:
        """Log the metrics of optimizer step `step`, counted from 1."""
        line = json.dumps({"step": step, **metrics}) + "\n"
        self.lines.append(line)
        path = self.place.local_path
        if path is not None:
            with path.open("a", encoding="utf-8") as stream:
                stream.write(line)
        elif time.monotonic() - self._written_at > _STORE_SECONDS:
            self._flush()
        for sink in self._sinks:
            sink(step, metrics)

    def close(self) -> FileEntry:
        """Let every tracker finish its writing, and return the entry of the metrics file as it was stored."""
        for closer in self._closers:
            closer()
        content = self._flush()
        return FileEntry(METRICS_FILE, len(content), hashlib.sha256(content).hexdigest(), None)

    def _flush(self) -> bytes:
        content = self.history.encode("utf-8")
        self.place.write_bytes(content)
        self._written_at = time.monotonic()
        return content

    def _open_sinks(self, job: TrainJob, scratch: Path) -> Iterator[Sink]:
        if job.tracking.tensorboard:
            yield self._tensorboard()
        if job.tracking.wandb_project is not None:
            yield self._wandb(job, job.tracking.wandb_project, scratch)
        if job.tracking.mlflow_tracking_uri is not None:
            yield self._mlflow(job, job.tracking.mlflow_tracking_uri)

    def _tensorboard(self) -> Sink:
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(str(self.tensorboard))
        self._closers.append(writer.close)

        def write(step: int, metrics: Metrics) -> None:
            for name, value in metrics.items():
                writer.add_scalar(name, value, step)

        # The event file of a dead attempt is given up; this one holds every step once.
        for line in self.lines:
            metrics = json.loads(line)
            write(metrics.pop("step"), metrics)
        return write

    def _wandb(self, job: TrainJob, project: str, scratch: Path) -> Sink:
        import wandb  # pyright: ignore[reportMissingImports]

        # The id is derived, so a resumed worker goes on with the same run.
        run = wandb.init(
            project=project, name=f"{job.run_name}-{job.kind}", id=f"{job.run_name}-{job.kind}-{job.digest}",
            resume="allow", dir=str(scratch), config=job.train.model_dump(mode="json"),
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
def followed(place: Location, title: str, num_steps: int, news: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Tell of the growing metrics file while the body runs: events always, and log lines or a bar on a terminal.

    Whoever listens to events on a terminal shows them there, so there is no bar then.
    news: called before every look, to log what else has happened.
    """
    stopped = threading.Event()
    shown = _LogView(title, num_steps) if not sys.stderr.isatty() else None if heard() else _BarView(title, num_steps)
    # What is there already is of an earlier start.
    lines = NewLines(place)
    earlier = _new_lines(lines)
    emit(TrainingAt(earlier[-1]["step"] if earlier else 0, num_steps, 0, {}))
    # The listeners of this thread hear that one.
    follow = contextvars.copy_context().run
    arguments = (_follow, lines, num_steps, shown, stopped, news)
    thread = threading.Thread(target=follow, args=arguments, name="follow-metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
        if shown is not None:
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


def _follow(
    lines: NewLines, num_steps: int, shown: _LogView | _BarView | None, stopped: threading.Event,
    news: Callable[[], None],
) -> None:  # fmt: skip
    pause_s = _FOLLOW_SECONDS if lines.place.local_path is not None else _STORE_SECONDS
    last_step = lines.step
    while True:
        # Read once more after the end: the last lines may have come since the last look.
        finished = stopped.wait(pause_s)
        logged = _new_lines(lines, news)
        if logged:
            _tell(logged, last_step, num_steps)
        for metrics in logged:
            # A worker that restarts writes the history of its checkpoint once more.
            if shown is not None and metrics["step"] > last_step:
                shown.show(metrics)
            last_step = max(last_step, metrics["step"])
        if finished:
            return


def _new_lines(lines: NewLines, news: Callable[[], None] = lambda: None) -> list[dict[str, Any]]:
    try:
        news()
        return lines.read()
    except StorageError as error:
        # Training goes on without being watched; what matters about storage is said where it is written.
        log.debug("%s cannot be read: %s", lines.place, error)
        return []


def _tell(logged: Sequence[Mapping[str, Any]], last_step: int, num_steps: int) -> None:
    num_tokens = 0
    for metrics in logged:
        num_tokens += max(0, metrics["step"] - last_step) * metrics.get("num_tokens", 0)
        last_step = max(last_step, metrics["step"])
    last = dict(logged[-1])
    emit(TrainingAt(last.pop("step"), num_steps, num_tokens, last))


class NewLines:
    """A metrics file that is read often: each time only what has been added since, where the store can tell."""

    def __init__(self, place: Location) -> None:
        self.place, self.step = place, 0
        self._offset, self._last_line = 0, b""

    def read(self) -> list[dict[str, Any]]:
        """Return the complete lines that are new; all of them when a restart has replaced what was read."""
        path = self.place.local_path
        found = read_metrics(self.place, self.step) if path is None else self._appended(path)
        self.step = found[-1]["step"] if found else self.step
        return found

    def _appended(self, path: Path) -> list[dict[str, Any]]:
        try:
            with path.open("rb") as stream:
                stream.seek(self._offset - len(self._last_line))
                if stream.read(len(self._last_line)) != self._last_line:
                    self._offset = stream.seek(0)
                new = stream.read()
        except FileNotFoundError:
            return []
        lines = new[: new.rfind(b"\n") + 1].splitlines(keepends=True)
        if lines:
            self._offset, self._last_line = self._offset + sum(map(len, lines)), lines[-1]
        return [json.loads(line) for line in lines]


def read_metrics(place: Location, after_step: int = 0) -> list[dict[str, Any]]:
    """Return the complete lines of a metrics file behind step `after_step`; none when there is no file yet."""
    try:
        lines = place.read_bytes().decode("utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        return []
    found: list[dict[str, Any]] = []
    # From the end: a long run is looked at often, and only its last lines are new.
    for line in reversed([line for line in lines if line.endswith("\n")]):
        metrics = json.loads(line)
        if metrics["step"] <= after_step:
            break
        found.append(metrics)
    return found[::-1]
