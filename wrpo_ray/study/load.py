"""A study that can start: the config of every run, checked, with all problems of all runs told at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wrpo_ray.config import FuseConfig
from wrpo_ray.config_file import load_config, parse_config
from wrpo_ray.config_study import Changes, StudyFile
from wrpo_ray.errors import ConfigError, DataError, Problem, WrpoError
from wrpo_ray.study.expand import NamedChanges, broken_study_rules, named_changes, overrides_of
from wrpo_ray.study.study_file import read_study
from wrpo_ray.yaml_loader import parse_yaml

_MAX_NAMED = 3
# Beginnings of columns that an evaluation gives.
_OF_EVALUATION = ("reward/", "gain/", "win_rate/", "length_controlled_win_rate/", "refusal_rate/")


@dataclass(frozen=True)
class StudyRun:
    """One run: its name within the study, what differs from the base, and its config, without `run.reuse`."""

    name: str
    changes: Changes
    config: FuseConfig


@dataclass(frozen=True)
class Study:
    """A study whose file and configs are valid.

    base_text: of the base; given: overrides of the command line. any_config: for what all runs have in common.
    """

    file: StudyFile
    runs: tuple[StudyRun, ...]
    any_config: FuseConfig
    base_text: str
    given: tuple[str, ...]

    def run(self, of_run: NamedChanges) -> StudyRun:
        """Return a further run of the study, such as a search's trial; raises what parse_config does."""
        raw = parse_yaml(self.base_text, self.file.base)
        overrides = overrides_of(self.file, raw, of_run, self.given)
        return StudyRun(of_run.name, of_run.changes, parse_config(self.base_text, self.file.base, overrides))


def load_study(path: str | Path, overrides: Sequence[str] = ()) -> Study:
    """Return the study of the YAML file at `path`; raises one ConfigError with the problems of all of its runs.

    overrides: `study.x=value` changes the file's own section, every other one the config of every run.
    """
    file, given = read_study(path, list(overrides))
    # Whatever is wrong with the base by itself is told once.
    base = load_config(file.base, given)
    base_text = Path(file.base).read_text(encoding="utf-8-sig")
    raw: Mapping[str, Any] = parse_yaml(base_text, file.base)
    found = Problems(f"study {file.study.name} cannot start")
    found.add(None, broken_study_rules(file, raw, str(path)))
    found.raise_any()
    study = Study(file, (), base, base_text, tuple(given))
    runs = []
    for of_run in _all_runs(file):
        with found.noting(of_run.name):
            runs.append(study.run(of_run))
    found.add(None, _rules_over_runs(runs))
    found.add(None, _metric_without_evaluation(file, runs))
    found.raise_any()
    num_runs = len(named_changes(file))
    return dataclasses.replace(study, runs=tuple(runs[:num_runs]), any_config=runs[0].config)


def _all_runs(file: StudyFile) -> list[NamedChanges]:
    """Return the runs, and the two trials at the ends of a search: a field that cannot be is found before it begins."""
    search = file.search
    if search is None:
        return named_changes(file)
    ends = [
        NamedChanges(f"search-{end}", {**search.set, **{path: getattr(of, end) for path, of in search.fields.items()}})
        for end in ("low", "high")
    ]
    return [*named_changes(file), *ends]


def _rules_over_runs(runs: Sequence[StudyRun]) -> Iterable[Problem]:
    if len({run.config.ray.model_dump_json() for run in runs}) > 1:
        fix = "set it for all of them, in the base or in `set`"
        yield Problem("ray", "(differs)", "all runs of a study work in one Ray session", fix, "WRPO-C096")
    delivered = [run.config.export.path for run in runs if run.config.export.path is not None]
    if len(delivered) > len(set(delivered)):
        rule = "several runs would deliver their models into this folder"
        fix = "leave it out: every run keeps its model in its step `export`"
        yield Problem("export.path", delivered[0], rule, fix, "WRPO-C096")


def _metric_without_evaluation(file: StudyFile, runs: Sequence[StudyRun]) -> Iterable[Problem]:
    search = file.search
    if search is None or not search.metric.startswith(_OF_EVALUATION) or all(run.config.evaluation for run in runs):
        return
    rule, fix = "this number comes from the evaluation, and the runs have none", "add a section `evaluation`"
    yield Problem("search.metric", search.metric, rule, fix, "WRPO-C097")


@dataclass
class Problems:
    """Collects the problems of many runs; one that several runs have is told once, with their names."""

    title: str
    found: dict[tuple[str, str, str], tuple[Problem, list[str]]] = field(default_factory=dict)
    only_data: bool = True

    def add(self, run: str | None, problems: Iterable[Problem]) -> None:
        """Note problems of a run, or of the study itself."""
        for problem in problems:
            names = self.found.setdefault((problem.place, problem.value, problem.rule), (problem, []))[1]
            names += [] if run is None else [run]
            self.only_data = self.only_data and problem.code.startswith("WRPO-D")

    def noting(self, run: str) -> _Noting:
        """Return a context that takes in the WrpoError that its body raises."""
        return _Noting(self, run)

    def raise_any(self) -> None:
        """Raise all that was noted, if anything was: DataError when it is about prompts alone, else ConfigError."""
        if self.found:
            problems = [_of_runs(problem, names) for problem, names in self.found.values()]
            raise (DataError if self.only_data else ConfigError).of(self.title, problems)


class _Noting:
    def __init__(self, problems: Problems, run: str) -> None:
        self.problems, self.run = problems, run

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, ConfigError | DataError):
            return False
        self.problems.add(self.run, problems_of(error))
        return True


def problems_of(error: WrpoError) -> Sequence[Problem]:
    """Return the problems that an error lists, or the error itself as one."""
    if error.problems:
        return error.problems
    return (Problem("config", "(see above)", error.message, error.help or "see the documentation", error.code),)


def _of_runs(problem: Problem, runs: Sequence[str]) -> Problem:
    if not runs:
        return problem
    more = f" and {len(runs) - _MAX_NAMED} more" if len(runs) > _MAX_NAMED else ""
    return dataclasses.replace(problem, place=f"{problem.place} (run {', '.join(runs[:_MAX_NAMED])}{more})")
