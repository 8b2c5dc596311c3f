"""A study's YAML file: a base config, runs and grids of what differs from it, and a search (jobs/study.py)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from wrpo_ray.config_base import Frozen, PositiveInt, Slug

Changes = dict[str, JsonValue]


class StudySection(Frozen):
    """Where the study lies."""

    name: Slug
    """Folder of its results below `root`, and the beginning of its runs' names: `<name>-<run>`."""
    root: str = "runs"
    """As `run.root`: the folder of all runs."""
    reuse: tuple[Slug, ...] = ()
    """Other runs below `root` whose finished steps are read as well."""


class FieldRange(Frozen):
    """The values that a field may take in a search, both ends included."""

    low: float
    high: float
    log: bool = False
    """Drawn evenly on a logarithmic scale, as for learning rates."""


class SearchSection(Frozen):
    """A search over numeric fields: one run per trial, from the base with the values drawn."""

    fields: Annotated[dict[str, FieldRange], Field(min_length=1)]
    """By their paths, such as wrpo.alpha.end."""
    num_trials: PositiveInt
    metric: str
    """A column of the table of results, such as reward/fused."""
    maximize: bool = True
    algorithm: Literal["random", "optuna"] = "random"
    """random: each trial for itself. optuna: where earlier trials were good (package optuna, extra `search`)."""
    set: Changes = {}
    """What all trials have besides, as a run's changes."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Of the values that are drawn: the same ones whenever the study is started again."""


class StudyFile(Frozen):
    """One study. Changes are values by dotted path; `sources` may be `first 3`, a group, or a list of names."""

    study: StudySection
    base: str
    """The config that all runs begin with; relative to the working directory, as every path."""
    set: Changes = {}
    """Changes that all runs have."""
    groups: dict[Slug, Annotated[tuple[str, ...], Field(min_length=1)]] = {}
    """Names for sets of the base's sources."""
    runs: dict[Slug, Changes] = {}
    """Changes of each run, by its name."""
    grids: dict[Slug, dict[str, Annotated[list[JsonValue], Field(min_length=1)]]] = {}
    """For each combination of these values a run, named after the grid and the values."""
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**32)], ...] = ()
    """Every run once for each `run.seed`; runs of different seeds draw different responses and share none."""
    search: SearchSection | None = None
