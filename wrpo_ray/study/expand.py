"""From a study's runs, grids and seeds to a list of named runs, each with the overrides that make its config."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from wrpo_ray.config_rules import shown
from wrpo_ray.config_study import Changes, StudyFile
from wrpo_ray.errors import Problem

SOURCES = "sources"
_SEED = "run.seed"
_FIRST = re.compile(r"first ([1-9][0-9]*)")
_NO_SLUG = re.compile(r"[^A-Za-z0-9._]+")
# The study says where its runs lie and what they read.
_SET_BY_THE_STUDY = ("run.name", "run.root", "run.reuse")
_LONGEST_NAME = 63


@dataclass(frozen=True)
class NamedChanges:
    """A run as the study has it: its name within the study, and what differs from the base, by dotted path."""

    name: str
    changes: Changes


def named_changes(study: StudyFile) -> list[NamedChanges]:
    """Return all runs in the order of the file, first those of the first seed."""
    runs = [NamedChanges(name, changes) for name, changes in study.runs.items()]
    for name, grid in study.grids.items():
        for values in itertools.product(*grid.values()):
            changes = dict(zip(grid, values, strict=True))
            runs.append(NamedChanges("-".join([name, *map(_slug, values)]), changes))
    if not study.seeds:
        return runs
    return [
        NamedChanges(f"{run.name}-seed-{seed}", {**run.changes, _SEED: seed}) for seed in study.seeds for run in runs
    ]


def _slug(value: Any) -> str:
    if isinstance(value, list):
        return "-".join(map(_slug, value))
    text = value if isinstance(value, str) else json.dumps(value)
    return _NO_SLUG.sub("-", text).strip("-._") or "none"


def full_name(study: StudyFile, run: str) -> str:
    """Return the name of the run's own folder."""
    return f"{study.study.name}-{run}"


def overrides_of(study: StudyFile, raw: Mapping[str, Any], run: NamedChanges, given: Sequence[str]) -> list[str]:
    """Return the overrides of the base that make the run: of all runs, of the command line, its own, its place.

    raw: the base as it was read. `run.reuse` is left for the start of the run, which knows what is there.
    """
    place: Changes = {"run.name": full_name(study, run.name), "run.root": study.study.root}
    own, common = _override_list(study, raw, run.changes), _override_list(study, raw, study.set)
    return [*common, *given, *own, *_override_list(study, raw, place)]


def _override_list(study: StudyFile, raw: Mapping[str, Any], changes: Changes) -> list[str]:
    """`sources` comes first: other changes may be about one of them."""
    ordered = sorted(changes.items(), key=lambda item: item[0] != SOURCES)
    return [f"{path}={json.dumps(_value(study, raw, path, value))}" for path, value in ordered]


def _value(study: StudyFile, raw: Mapping[str, Any], path: str, value: Any) -> Any:
    names = chosen_sources(study, raw, value) if path == SOURCES else None
    if names is None:
        return value
    by_name = {source["name"]: source for source in _sections(raw)}
    return [by_name[name] for name in names if name in by_name]


def chosen_sources(study: StudyFile, raw: Mapping[str, Any], value: Any) -> list[str] | None:
    """Return the names that a value of `sources` stands for, None when it holds whole sections."""
    names = [source["name"] for source in _sections(raw)]
    if isinstance(value, list):
        return [str(name) for name in value] if value and all(isinstance(name, str) for name in value) else None
    if (first := _FIRST.fullmatch(str(value))) is not None:
        number = int(first[1])
        return names[:number] if number <= len(names) else [f"first {number}"]
    return list(study.groups.get(str(value), (str(value),)))


def _sections(raw: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    sources = raw.get(SOURCES)
    return [source for source in sources if isinstance(source, dict) and "name" in source] if sources else []


def trial_name(number: int) -> str:
    """Return the name of a search's trial within the study."""
    return f"search-{number:03d}"


def broken_study_rules(study: StudyFile, raw: Mapping[str, Any], name: str) -> Iterator[Problem]:
    """Yield every problem that can be told before the runs' configs are made; `name` stands for the file."""
    runs = named_changes(study)
    if not runs and study.search is None:
        yield _wrong(name, "(nothing)", "a study has runs, grids or a search", "add `runs:`")
    trials = range(study.search.num_trials) if study.search is not None else ()
    for run, count in Counter([*(run.name for run in runs), *map(trial_name, trials)]).items():
        if count > 1:
            yield _wrong(f"{name} `runs`", run, f"{count} runs have this name", "rename a run or grid, or take one out")
        if len(full_name(study, run)) > _LONGEST_NAME:
            yield _wrong(f"{name} `runs`", full_name(study, run), f"longer than {_LONGEST_NAME}", "shorten names")
    if len(set(study.seeds)) < len(study.seeds):
        yield _wrong(f"{name} `seeds`", shown(study.seeds), "a seed is there twice", "name each once")
    everywhere = [("set", study.set), *((f"runs.{run.name}", run.changes) for run in runs)]
    if study.search is not None:
        everywhere.append(("search.set", study.search.set))
        everywhere.append(("search.fields", dict.fromkeys(study.search.fields)))
    for place, changes in everywhere:
        yield from _broken_changes(study, raw, f"{name} `{place}`", changes)
    if study.seeds and not runs:
        yield _wrong(f"{name} `seeds`", shown(study.seeds), "trials of a search have the base's seed", "leave it out")
    yield from _seeds_twice(study, name)
    yield from _broken_ranges(study, name)


def _broken_changes(study: StudyFile, raw: Mapping[str, Any], place: str, changes: Changes) -> Iterator[Problem]:
    for path in _SET_BY_THE_STUDY:
        if path in changes or "run" in changes:
            yield _wrong(place, path, "the study sets this itself", "leave it out; see study.name and study.root")
    if SOURCES not in changes:
        return
    known = [source["name"] for source in _sections(raw)]
    for source in chosen_sources(study, raw, changes[SOURCES]) or ():
        if source not in known:
            rule = f"neither a source of the base nor a group of the study; sources: {', '.join(map(str, known))}"
            yield _wrong(place, source, rule, "write `first N`, a group, or a list of names")


def _seeds_twice(study: StudyFile, name: str) -> Iterator[Problem]:
    """`seeds` would replace every other seed without a word."""
    places = [("set", study.set), *((f"runs.{run}", changes) for run, changes in study.runs.items())]
    places += [(f"grids.{grid}", dict.fromkeys(fields)) for grid, fields in study.grids.items()]
    for place, changes in places if study.seeds else ():
        if _SEED in changes:
            rule = "the study has `seeds`, which give every run its own"
            yield _wrong(f"{name} `{place}`", f"{_SEED}: {shown(changes[_SEED])}", rule, "leave out one of the two")


def _broken_ranges(study: StudyFile, name: str) -> Iterator[Problem]:
    if study.search is not None and study.search.algorithm == "optuna" and find_spec("optuna") is None:
        rule, fix = "the package optuna is not installed", "pip install wrpo-ray[search], or set it to random"
        yield Problem(f"{name} `search.algorithm`", "optuna", rule, fix, "WRPO-C097")
    for path, of_field in study.search.fields.items() if study.search else ():
        if not of_field.low < of_field.high:
            value = f"{of_field.low:g} to {of_field.high:g}"
            yield _wrong(f"{name} `search.fields.{path}`", value, "low must be less than high", "exchange them")
        elif of_field.log and of_field.low <= 0:
            rule = "a logarithmic scale has no zero"
            yield _wrong(f"{name} `search.fields.{path}.low`", f"{of_field.low:g}", rule, "raise it above 0")


def _wrong(place: str, value: str, rule: str, fix: str) -> Problem:
    return Problem(place, value, rule, fix, "WRPO-C096")
