"""Reads a study's YAML file; every problem is reported at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from wrpo_ray.config_rules import shown
from wrpo_ray.config_study import StudyFile
from wrpo_ray.config_text import read_config_text
from wrpo_ray.errors import ConfigError, Problem
from wrpo_ray.yaml_loader import excerpt, parse_yaml, position_of

_OWN = "study."


def read_study(path: str | Path, overrides: list[str]) -> tuple[StudyFile, list[str]]:
    """Return the checked study file with overrides that begin with `study.` applied, and the other overrides.

    Raises ConfigError that lists every problem.
    """
    text = read_config_text(Path(path), "study")
    raw = parse_yaml(text, str(path))
    if not isinstance(raw, dict) or not isinstance(raw.get("study"), dict):
        rule = f"{path} is no study: it must hold a section `study` with a name"
        raise ConfigError(rule, code="WRPO-C096", help="see jobs/configs/study_smoke.yaml")
    own = [override for override in overrides if override.startswith(_OWN)]
    for override in own:
        name, _, value = override.removeprefix(_OWN).partition("=")
        raw["study"][name] = parse_yaml(value, f"override {name}")
    try:
        study = StudyFile.model_validate_json(json.dumps(raw), strict=True)
    except ValidationError as error:
        problems = [_problem(detail, text, str(path)) for detail in error.errors(include_url=False)]
        raise ConfigError.of(f"cannot use {path}", problems) from error
    return study, [override for override in overrides if override not in own]


def _problem(detail: Any, text: str, name: str) -> Problem:
    dotted = ".".join(str(part) for part in detail["loc"])
    position = position_of(text, detail["loc"])
    place = f"{name}:{position.line}:{position.column} `{dotted}`" if position else f"{name} `{dotted}`"
    rule = "unknown field" if detail["type"] == "extra_forbidden" else detail["msg"].replace("Input should", "must")
    fix = "docs/studies.md lists what a study may hold"
    lines = excerpt(text, position) if position else None
    return Problem(place, shown(detail["input"]), rule, fix, "WRPO-C096", lines)
