"""`wrpo-ray status RUN`: where a run stands, from its folder alone."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterable, Sequence

from wrpo_ray.errors import StorageError
from wrpo_ray.failures import Failure
from wrpo_ray.run_state import RunState, StepState, read_run
from wrpo_ray.run_state.records import Damage
from wrpo_ray.storage.location import locate

_MAX_DAMAGE_SHOWN = 5
_MAX_FAILURES_SHOWN = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("run", metavar="RUN", help="the run's folder, or s3:// or gs:// URI: run.root/run.name")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def main(options: argparse.Namespace) -> int:
    """Print the state of a run and return 0; raises ConfigError when it is none, StorageError when it is damaged."""
    state = read_run(locate(options.run))
    print(as_json(state) if options.json else render(state))
    if state.every_damage:
        raise damaged_run(state.folder, state.every_damage, state)
    return 0


def damaged_run(folder: str, damages: Sequence[Damage], state: RunState) -> StorageError:
    """Return the error that names a run as damaged, with the first files and reasons."""
    lines = [f"{damage.path}: {damage.reason}" for damage in damages[:_MAX_DAMAGE_SHOWN]]
    more = [f"and {len(damages) - _MAX_DAMAGE_SHOWN} more"] if len(damages) > _MAX_DAMAGE_SHOWN else []
    return StorageError(
        "\n".join([f"run {folder} is damaged: {counted_noun(len(damages), 'file')}", *lines, *more]), code="WRPO-S031",
        help=f"{_commands(to_repair(state, damages), '')} checks every file; with --repair it removes what does not"
        " verify",
    )  # fmt: skip


def to_repair(state: RunState, damages: Sequence[Damage]) -> list[str]:
    """Return the folders of the runs in which these damages lie: this one, and those whose steps it reads."""
    reused = {step.folder: step.folder.rsplit("/", 2)[0] for step in state.steps if step.run is not None}
    found = (
        next((run for step, run in reused.items() if damage.path.startswith(f"{step}/")), state.folder)
        for damage in damages
    )
    return list(dict.fromkeys(found))


def _commands(folders: Sequence[str], option: str) -> str:
    return " and ".join(f"`wrpo-ray inspect {folder}{option}`" for folder in folders)


def as_json(state: RunState) -> str:
    """Return everything that is known, as JSON."""
    told = dataclasses.asdict(state)
    holder = state.holder
    told["owner"] = dataclasses.asdict(holder) if holder is not None else None
    del told["holder"]
    return json.dumps(told, indent=2, ensure_ascii=False, default=str)


def render(state: RunState) -> str:
    """Return the state as a text for a terminal."""
    blocks = [_head(state), table(_rows(state.steps)), _set_aside(state.steps), _unknown_times(state.steps)]
    if state.broken_sources:
        lines = [f"  {record.source}: {record.code} {_one_line(record.error)}" for record in state.broken_sources]
        blocks.append("\n".join(["broken sources (the run goes on without them):", *lines]))
    blocks.append(_failures(state))
    if state.every_damage:
        blocks.append("\n".join(["damaged:", *(f"  {each.path}\n    {each.reason}" for each in state.every_damage)]))
    blocks.append(f"next: {advice(state)}")
    return "\n\n".join(block for block in blocks if block)


def _head(state: RunState) -> str:
    lines = [f"run    {state.folder}", f"owner  {_owner(state)}"]
    if state.submission is not None:
        started = f", started {state.submission.started_at}" if state.submission.started_at else ""
        lines.append(f"start  number {state.submission.number}{started}")
    return "\n".join(lines)


def _owner(state: RunState) -> str:
    holder = state.holder
    if holder is None:
        return "none: no driver has held this run with a lease"
    owner = f"{holder.owner}, epoch {holder.epoch}: {holder.state}"
    return owner if holder.state == "released" else f"{owner}, last sign of life {duration(holder.heartbeat_age_s)} ago"


def _rows(steps: Iterable[StepState]) -> list[tuple[str, ...]]:
    return [
        ("step", "state", "done", "rows", "set aside", "rows/s", "left"),
        *(
            (
                step.name,
                step.phase,
                done(step),
                "" if step.rows is None else f"{step.rows:,}",
                f"{sum(step.quarantined.values()):,}" if step.quarantined else "",
                "" if step.pace.rate is None else _rate(step.pace.rate),
                _left(step),
            )
            for step in steps
        ),
    ]


def done(step: StepState) -> str:
    """Return how far a step is, shards or optimizer steps; or which run it is read from."""
    if step.run is not None:
        return f"in run {step.run}"
    if step.training.step is not None:
        return f"step {step.training.step:,} of {step.training.num_steps or '?'}"
    if step.shards_done is not None:
        return f"{step.shards_done:,} of {'?' if step.shards_planned is None else f'{step.shards_planned:,}'} shards"
    return ""


def _rate(rows_per_s: float) -> str:
    return f"{rows_per_s:,.0f}" if rows_per_s >= 100 else f"{rows_per_s:.3g}"


def _left(step: StepState) -> str:
    if step.phase == "complete":
        return "" if step.seconds is None else f"took {duration(step.seconds)}"
    if step.pace.seconds_left is not None:
        return f"about {duration(step.pace.seconds_left)}"
    return "unknown" if step.pace.unknown else ""


def _set_aside(steps: Iterable[StepState]) -> str:
    lines = [
        f"  {step.name}: {count:,} {code}  {step.quarantine_files.get(code, '')}"
        for step in steps
        for code, count in step.quarantined.items()
    ]
    return "\n".join(["rows set aside:", *lines]) if lines else ""


def _unknown_times(steps: Iterable[StepState]) -> str:
    lines = [f"  {step.name}: {step.pace.unknown}" for step in steps if step.pace.unknown]
    return "\n".join(["time left is unknown:", *lines]) if lines else ""


def _failures(state: RunState) -> str:
    """Return what starts ended with, the newest last; how to repair it where it is not done yet."""
    shown = state.failures[-_MAX_FAILURES_SHOWN:]
    lines = [line for failure in shown for line in _failure(failure, state.stands(failure))]
    if older := len(state.failures) - len(shown):
        lines.insert(0, f"  and {older} older: {state.folder}/failures")
    return "\n".join(["failures of starts:", *lines]) if lines else ""


def _failure(failure: Failure, stands: bool) -> list[str]:
    told = " ".join(part for part in (failure.code, _one_line(failure.error)) if part)
    since = "" if stands else " (done since, or another config)"
    fix = [f"    fix: {_one_line(failure.help)}"] if stands and failure.help else []
    return [f"  {failure.at} {failure.step}: {told}{since}", *fix]


def advice(state: RunState) -> str:
    """Return what to do next."""
    if state.every_damage:
        stop = "stop the driver, then " if state.live else ""
        commands = _commands(to_repair(state, state.every_damage), " --repair")
        return f"{stop}{commands}, then start the run again with its config"
    if state.submission is None:
        return "start the run with its config: no start has got so far as to list its steps"
    if all(step.phase in ("complete", "left out") for step in state.steps):
        return "nothing: every step is done"
    if state.live:
        return "nothing: a driver is at work"
    if failure := state.last_failure:
        explained = f" (`wrpo-ray explain {failure.code}` says more)" if failure.code else ""
        return f"repair what step {failure.step} failed at{explained}, then start the run again: finished work is kept"
    if state.holder is not None and state.holder.state == "stale":
        return "start the run again with its config: its driver is dead; finished work is kept"
    return "start the run again with its config: finished work is kept"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of cells as aligned columns, without the columns that are empty; the first row is the heading."""
    if len(rows) < 2:
        return ""
    columns = [column for column in zip(*rows, strict=True) if any(column[1:])]
    widths = [max(map(len, column)) for column in columns]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in zip(*columns, strict=True)
    ]
    return "\n".join(line.rstrip() for line in lines)


def duration(seconds: float) -> str:
    """Return seconds in the two largest units that say something."""
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def counted_noun(count: int, noun: str) -> str:
    """Return "1 file", "2 files"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _one_line(text: str) -> str:
    return text.splitlines()[0] if text else ""
