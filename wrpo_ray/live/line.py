"""A run at work as single lines for a job's log: no control characters, each begins with `progress:`."""

from __future__ import annotations

from collections.abc import Iterator

from wrpo_ray.events import Event, StepBegan, StepEnded
from wrpo_ray.live import words
from wrpo_ray.live.view import HOUR_S, RunView, StepView
from wrpo_ray.run_status import duration

# A line for each of fifty sources would be read by nobody; `wrpo-ray status` lists all of them.
_MAX_RUNNING = 6


def progress_line(view: RunView) -> str:
    """Return the whole run in one line."""
    running = [step for step in view.steps if step.phase == "running"]
    parts = [words.counted_steps(view), *(_running(step) for step in running[:_MAX_RUNNING])]
    if len(running) > _MAX_RUNNING:
        parts.append(f"{len(running) - _MAX_RUNNING} more running")
    parts += [words.held_hours(view), words.price(view.price), words.time_left(view.time_left)]
    if view.broken_sources:
        parts.append(f"without {', '.join(view.broken_sources)}")
    return f"progress: {' | '.join(part for part in parts if part)}"


def _running(step: StepView) -> str:
    done = words.rows(step)
    return ", ".join([f"{step.name} {done} {words.row_noun(step)}" if done else step.name, *_figures(step)])


def _figures(step: StepView) -> Iterator[str]:
    if step.rows_per_s is not None:
        yield f"{words.rate(step.rows_per_s)} {words.row_noun(step)}/s"
    if step.tokens_per_s is not None:
        yield f"{words.rate(step.tokens_per_s)} tokens/s"
    if step.replicas:
        yield words.replicas(step)
    yield from words.notes(step)


def event_line(event: Event, step: StepView) -> str | None:
    """Return the line that tells of a step's beginning or end; None for other events."""
    if isinstance(event, StepBegan):
        return f"progress: {step.name} began"
    if not isinstance(event, StepEnded):
        return None
    parts = [f"{step.name} done in {duration(event.seconds)}"]
    if step.rows:
        parts += [f"{step.rows:,} {words.row_noun(step)}", f"{step.tokens:,} tokens" if step.tokens else ""]
    if step.holding is not None and step.unit_seconds:
        parts.append(f"{words.hours(step.unit_seconds / HOUR_S)} {step.holding.accelerator}-h")
    return f"progress: {', '.join(part for part in [*parts, *words.notes(step)] if part)}"
