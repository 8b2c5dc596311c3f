"""How figures of a run at work are put into words, the same in all views."""

from __future__ import annotations

from collections.abc import Iterator

from wrpo_ray.live.view import Price, RunView, StepView, TimeLeft
from wrpo_ray.run_status import counted_noun, duration

# Of a training step, under the names that metrics.jsonl has.
_TRAINING_METRICS = {"loss": "loss", "alpha": "alpha", "rewards/margins": "margin"}


def rate(per_s: float) -> str:
    """Return a rate with as many digits as it deserves: 18,400 or 41 or 0.52."""
    return f"{per_s:,.0f}" if per_s >= 99.5 else f"{per_s:.3g}"


def hours(amount: float) -> str:
    """Return accelerator-hours."""
    return f"{amount:,.1f}" if amount >= 9.95 else f"{amount:.3g}" if amount >= 0.0095 else f"{amount:.1g}"


def rows(step: StepView) -> str:
    """Return how much of a step is done: 12,300/60,000; nothing when it does not tell."""
    if step.rows_all is None:
        return f"{step.rows_done:,}" if step.rows_done else ""
    return f"{step.rows_done:,}/{step.rows_all:,}"


def kind(step: StepView) -> str | None:
    """Return the kind of a step that holds something."""
    return step.holding.kind if step.holding is not None else None


def source(step: StepView) -> str | None:
    """Return the source whose step this is, if it is one's."""
    return step.holding.source if step.holding is not None else None


def row_noun(step: StepView) -> str:
    """Return what the rows of a step are."""
    return "steps" if kind(step) == "training" else "rows"


def replicas(step: StepView) -> str:
    """Return the replicas (of a pool) or workers (of a training step) that a step has now; nothing without any."""
    if not step.replicas:
        return ""
    noun = "worker" if step.holding is not None and step.holding.num_workers is not None else "replica"
    return counted_noun(step.replicas, noun)


def notes(step: StepView) -> Iterator[str]:
    """Yield what else is to be said: rows set aside, the last training metrics."""
    if step.set_aside:
        yield f"{sum(step.set_aside.values()):,} set aside"
    for name, word in _TRAINING_METRICS.items():
        if name in step.metrics:
            yield f"{word} {step.metrics[name]:.4g}"


def held_hours(view: RunView) -> str:
    """Return accelerator-hours so far; of a run without any GPU CPU core-hours."""
    if view.gpu_hours or view.held(gpus=True) or not view.cpu_hours:
        return f"{hours(view.gpu_hours)} GPU-h"
    return f"{hours(view.cpu_hours)} CPU-core-h"


def price(told: Price) -> str:
    """Return the price so far; nothing when nothing of it is known."""
    if not told.amount and told.without:
        return ""
    without = f" without {', '.join(told.without)}" if told.without else ""
    if not told.amount:
        return ""
    amount = "under 0.01" if told.amount < 0.01 else f"{told.amount:,.2f}"
    return f"{amount} {told.currency}{without}"


def time_left(left: TimeLeft) -> str:
    """Return when the run is over, or why that is not known."""
    if left.seconds is None:
        reason = (left.unknown or "").splitlines()
        return f"time left unknown ({reason[0]})" if reason else "time left unknown"
    if left.seconds == 0:
        return "nothing left"
    plan = "" if left.measured else " by the plan alone"
    return f"about {duration(left.seconds)} left{plan}"


def counted_steps(view: RunView) -> str:
    """Return how many of the run's steps are done; those that were left out are none of it any more."""
    done = view.count("done", "complete before")
    return f"{done}/{len(view.steps) - view.count('left out')} steps"
