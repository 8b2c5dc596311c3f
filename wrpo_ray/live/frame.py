"""A run at work as a picture for a terminal of any size: lines of text with the name of a style each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from wrpo_ray.live import words
from wrpo_ray.live.view import Phase, RunView, StepView
from wrpo_ray.run_status import duration

BAR_WIDTH = 12
_STAGES = {"sampling": "sampled", "scoring": "scored"}
_STYLES: dict[Phase, str] = {
    "waiting": "dim", "running": "bold", "done": "green", "complete before": "green dim", "left out": "red dim",
}  # fmt: skip
_HEADINGS = ("step", "", "done", "per s", "tokens/s", "replicas", "held", "time", "left", "")
_BAR = 1
# Columns by number in the order in which a narrow terminal loses them: notes, held, replicas, then bars, time, ...
_LOST_FIRST = (9, 6, 5, _BAR, 7, 3, 4, 2, 8)
_LEFT = {0, _BAR, 9}


@dataclass(frozen=True)
class Line:
    """One line of the picture and its style, as rich names it."""

    text: str
    style: str = ""


def frame(view: RunView, width: int, height: int, marks: str = "█░") -> list[Line]:
    """Return at most `height` lines of at most `width` characters.

    All steps where they fit; else those that run, as many as fit, and the others summed up. marks: what bars are made
    of, done and not done.
    """
    head = list(_head(view))
    room = max(0, height - len(head) - 1)
    if len(view.steps) <= room:
        shown, below = list(view.steps), []
    else:
        running = [step for step in view.steps if step.phase == "running"]
        # Where not all of them fit, one more line sums up the others.
        all_fit = len(running) + len(list(_summed_up(view, running, running))) <= room
        shown = running if all_fit else running[: max(0, room - len(list(_summed_up(view, running, []))))]
        below = list(_summed_up(view, running, shown))[: max(0, room - len(shown))]
    lines = [*head, *_table(shown, width, marks), *(Line(text, "dim") for text in below)]
    return [Line(_cut(line.text, width), line.style) for line in lines[:height]]


def _head(view: RunView) -> Iterator[Line]:
    held = view.held(gpus=True)
    cores = view.held(gpus=False)
    now = (
        f"{_counted_units(held, 'GPU')} held" if held else f"{_counted_units(cores, 'CPU core')} held" if cores else ""
    )
    parts = [
        f"run {view.run}", words.counted_steps(view), duration(view.seconds), now, words.held_hours(view),
        words.price(view.price),
    ]  # fmt: skip
    yield Line("   ".join(part for part in parts if part), "bold")
    yield Line(words.time_left(view.time_left), "bold cyan")
    if stages := "   ".join(_stages(view)):
        yield Line(stages)
    if view.broken_sources:
        yield Line(f"without {', '.join(view.broken_sources)}", "red")


def _counted_units(units: float, noun: str) -> str:
    return f"{units:g} {noun}{'' if units == 1 else 's'}"


def _stages(view: RunView) -> Iterator[str]:
    """Yield how far the sources are, and training: steps done, and the share of their work."""
    steps = [step for step in view.steps if step.phase != "left out"]
    for kind, word in _STAGES.items():
        if counted := _counted([step for step in steps if words.source(step) and words.kind(step) == kind]):
            yield f"{word} sources {counted}"
    if counted := _counted([step for step in steps if words.kind(step) == "training"]):
        yield f"trained {counted}"


def _counted(steps: Sequence[StepView]) -> str:
    if not steps:
        return ""
    share = sum(step.share or 0.0 for step in steps) / len(steps)
    return f"{sum(not step.unfinished for step in steps)}/{len(steps)} ({share:.0%})"


def _summed_up(view: RunView, running: Sequence[StepView], shown: Sequence[StepView]) -> Iterator[str]:
    if hidden := running[len(shown) :]:
        rows_per_s = sum(step.rows_per_s or 0.0 for step in hidden)
        tokens_per_s = sum(step.tokens_per_s or 0.0 for step in hidden)
        rates = f", {words.rate(rows_per_s)} per s, {words.rate(tokens_per_s)} tokens/s" if rows_per_s else ""
        yield f"{len(hidden)} more running{rates}: {_names(hidden)}"
    phases: tuple[Phase, ...] = ("waiting", "done", "complete before", "left out")
    for phase in phases:
        if steps := [step for step in view.steps if step.phase == phase]:
            yield f"{len(steps)} {phase}: {_names(steps if phase == 'waiting' else steps[::-1])}"


def _names(steps: Iterable[StepView]) -> str:
    return ", ".join(step.name for step in steps)


def _table(steps: Sequence[StepView], width: int, marks: str) -> Iterator[Line]:
    if not steps:
        return
    rows = _fitting([_HEADINGS, *(_cells(step, marks) for step in steps)], width)
    styles = ["dim", *(_STYLES[step.phase] for step in steps)]
    widths = [max(map(len, column)) for column in zip(*(row.values() for row in rows), strict=True)]
    for row, style in zip(rows, styles, strict=True):
        cells = (
            cell.ljust(width) if number in _LEFT else cell.rjust(width)
            for (number, cell), width in zip(row.items(), widths, strict=True)
        )
        yield Line("  ".join(cells).rstrip(), style)


def _fitting(rows: Sequence[tuple[str, ...]], width: int) -> list[dict[int, str]]:
    """Return the cells by number of column, without empty columns and those that the terminal has no room for."""
    filled = [number for number in range(len(_HEADINGS)) if number == 0 or any(row[number] for row in rows[1:])]
    found = [{number: row[number] for number in filled} for row in rows]
    for lost in _LOST_FIRST:
        if sum(max(len(row[number]) for row in found) + 2 for number in found[0]) - 2 <= width:
            break
        if lost == _BAR:
            # The share stays, and so does the phase of a step that does not run.
            found = [row | {_BAR: row[_BAR].rpartition(" ")[2]} if _is_bar(row) else row for row in found]
        else:
            found = [{number: cell for number, cell in row.items() if number != lost} for row in found]
    return found


def _is_bar(row: dict[int, str]) -> bool:
    return row.get(_BAR, "").endswith("%")


def _cells(step: StepView, marks: str) -> tuple[str, ...]:
    holding = step.holding
    return (
        step.name,
        _bar(step, marks) if step.phase == "running" else step.phase,
        words.rows(step),
        "" if step.rows_per_s is None else words.rate(step.rows_per_s),
        "" if step.tokens_per_s is None else words.rate(step.tokens_per_s),
        f"{step.replicas}" if step.replicas else "",
        f"{step.units:g} {holding.accelerator}" if holding is not None and step.units else "",
        "" if step.seconds is None else duration(step.seconds),
        duration(step.left_s) if step.phase == "running" and step.left_s is not None else "",
        ", ".join(words.notes(step)),
    )


def _bar(step: StepView, marks: str) -> str:
    if step.share is None:
        return "running"
    filled = int(step.share * BAR_WIDTH)
    return f"{marks[0] * filled}{marks[1] * (BAR_WIDTH - filled)}{step.share:5.0%}"


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: max(0, width - 3)]}..."[:width]
