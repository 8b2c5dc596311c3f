"""The figures of a run for Prometheus, through ray.util.metrics: each node's Ray agent serves what its drivers tell.

Ray puts `ray_` before every name. cluster/grafana_wrpo_ray.json shows all of them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from wrpo_ray.live.holding import CPU
from wrpo_ray.live.view import Phase, RunView, StepView

RAY_PREFIX = "ray_"
PHASES: dict[Phase, int] = {"waiting": 0, "running": 1, "done": 2, "complete before": 3, "left out": 4}
UNKNOWN_S = -1.0


@dataclass(frozen=True)
class MetricSpec:
    """A metric; `tags` are its labels besides `run`."""

    name: str
    kind: Literal["counter", "gauge"]
    description: str
    tags: tuple[str, ...] = ("step",)


METRICS = {
    spec.name: spec
    for spec in (
        MetricSpec("wrpo_ray_step_phase", "gauge", "0 waiting, 1 running, 2 done, 3 complete before, 4 left out"),
        MetricSpec("wrpo_ray_step_progress_ratio", "gauge", "Share of a step that is done, 0 to 1"),
        MetricSpec("wrpo_ray_rows_total", "counter", "Rows committed by this start of the run"),
        MetricSpec("wrpo_ray_tokens_total", "counter", "Tokens drawn or trained on by this start of the run"),
        MetricSpec("wrpo_ray_rows_set_aside_total", "counter", "Rows set aside by code", ("step", "code")),
        MetricSpec("wrpo_ray_replicas", "gauge", "Replicas or training workers that hold their resources"),
        MetricSpec("wrpo_ray_gpus_held", "gauge", "GPUs that a step holds", ("step", "accelerator")),
        MetricSpec("wrpo_ray_gpu_seconds_total", "counter", "GPU-seconds held", ("step", "accelerator")),
        MetricSpec("wrpo_ray_cpu_core_seconds_total", "counter", "Core-seconds held by steps without a GPU"),
        MetricSpec("wrpo_ray_price", "gauge", "Price of this start so far, in the config's currency", ("currency",)),
        MetricSpec("wrpo_ray_eta_seconds", "gauge", "Seconds until the run is done, -1 when unknown", ()),
        MetricSpec("wrpo_ray_elapsed_seconds", "gauge", "Seconds since this start of the run began", ()),
        MetricSpec("wrpo_ray_training_step", "gauge", "Last optimizer step that was logged"),
        MetricSpec("wrpo_ray_training_steps", "gauge", "Optimizer steps of the whole training"),
        MetricSpec("wrpo_ray_training_loss", "gauge", "Loss of that step"),
        MetricSpec("wrpo_ray_training_learning_rate", "gauge", "Learning rate of that step"),
        MetricSpec("wrpo_ray_training_grad_norm", "gauge", "Norm of that step's gradient, before it is clipped"),
        MetricSpec("wrpo_ray_training_alpha", "gauge", "Weight of the source response at that step"),
        MetricSpec("wrpo_ray_training_reward_margin", "gauge", "Reward of the target's chosen minus the rejected one"),
        MetricSpec("wrpo_ray_training_reward_accuracy_ratio", "gauge", "Share of rows with a positive margin"),
    )
}
_OF_TRAINING = {
    "loss": "wrpo_ray_training_loss",
    "learning_rate": "wrpo_ray_training_learning_rate",
    "grad_norm": "wrpo_ray_training_grad_norm",
    "alpha": "wrpo_ray_training_alpha",
    "rewards/margins": "wrpo_ray_training_reward_margin",
    "rewards/accuracies": "wrpo_ray_training_reward_accuracy_ratio",
}


@dataclass(frozen=True)
class Sample:
    """One value of a metric; tags without `run`."""

    name: str
    value: float
    tags: tuple[tuple[str, str], ...] = ()


def samples(view: RunView) -> Iterator[Sample]:
    """Yield every value that is known of the run now; a counter's is its sum so far."""
    for step in view.steps:
        yield from _of_step(step)
    if view.price.amount:
        yield Sample("wrpo_ray_price", view.price.amount, (("currency", view.price.currency),))
    left_s = view.time_left.seconds
    yield Sample("wrpo_ray_eta_seconds", UNKNOWN_S if left_s is None else left_s)
    yield Sample("wrpo_ray_elapsed_seconds", view.seconds)


def _of_step(step: StepView) -> Iterator[Sample]:
    tags = (("step", step.name),)
    yield Sample("wrpo_ray_step_phase", PHASES[step.phase], tags)
    if step.share is not None:
        yield Sample("wrpo_ray_step_progress_ratio", step.share, tags)
    if step.holding is None:
        return
    if step.holding.kind == "training":
        yield from _of_training(step, tags)
    else:
        yield Sample("wrpo_ray_rows_total", step.rows, tags)
    yield Sample("wrpo_ray_tokens_total", step.tokens, tags)
    for code, count in step.set_aside.items():
        yield Sample("wrpo_ray_rows_set_aside_total", count, (*tags, ("code", code)))
    yield Sample("wrpo_ray_replicas", step.replicas, tags)
    if step.holding.accelerator == CPU:
        yield Sample("wrpo_ray_cpu_core_seconds_total", step.unit_seconds, tags)
    else:
        on = (*tags, ("accelerator", step.holding.accelerator))
        yield Sample("wrpo_ray_gpus_held", step.units, on)
        yield Sample("wrpo_ray_gpu_seconds_total", step.unit_seconds, on)


def _of_training(step: StepView, tags: tuple[tuple[str, str], ...]) -> Iterator[Sample]:
    if step.rows_all is None:
        return
    yield Sample("wrpo_ray_training_step", step.rows_done, tags)
    yield Sample("wrpo_ray_training_steps", step.rows_all, tags)
    for name, metric in _OF_TRAINING.items():
        if name in step.metrics:
            yield Sample(metric, step.metrics[name], tags)


def ray_is_connected() -> bool:
    """Tell whether this process is a driver of a Ray cluster; Ray is not imported for it."""
    ray = sys.modules.get("ray")
    connected = getattr(ray, "is_initialized", None)
    return connected is not None and connected()


class Exporter:
    """Hands the values of views to Ray; to be made once Ray is connected."""

    def __init__(self) -> None:
        from ray.util.metrics import Counter, Gauge

        kinds = {"counter": Counter, "gauge": Gauge}
        self._metrics: dict[str, Any] = {
            spec.name: kinds[spec.kind](spec.name, spec.description, ("run", *spec.tags)) for spec in METRICS.values()
        }
        self._counted: dict[tuple[Any, ...], float] = {}

    def export(self, view: RunView) -> None:
        """Hand over everything that the view tells."""
        for sample in samples(view):
            tags = {"run": view.run, **dict(sample.tags)}
            if METRICS[sample.name].kind == "gauge":
                self._metrics[sample.name].set(sample.value, tags)
            elif (further := sample.value - self._counted.get((sample.name, sample.tags), 0.0)) > 0:
                self._metrics[sample.name].inc(further, tags)
                self._counted[sample.name, sample.tags] = sample.value


class WhileConnected:
    """Exports as long as Ray is connected, and does nothing otherwise."""

    def __init__(self) -> None:
        self._exporter: Exporter | None = None

    def export(self, view: RunView) -> None:
        """Hand the view to Ray, if there is one."""
        if not ray_is_connected():
            self._exporter = None
            return
        self._exporter = self._exporter or Exporter()
        self._exporter.export(view)
