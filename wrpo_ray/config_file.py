"""From a YAML file and `a.b.c=value` overrides to a checked FuseConfig; every problem is reported at once.

`model_defaults` in the file is laid under `sources[*]` and `target` before anything is checked: it exists in authored
files only, the resolved config holds each model's own values.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from wrpo_ray.config import FuseConfig
from wrpo_ray.config_rules import broken_rules
from wrpo_ray.errors import ConfigError, Problem, list_problems
from wrpo_ray.yaml_loader import line_of, parse_yaml

MODEL_DEFAULTS = "model_defaults"
DEFAULT_SECTIONS = ("engine", "sampling", "resources")


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> FuseConfig:
    """Return the checked config of the YAML file at `path` with `overrides` ("a.b.c=value") applied.

    Relative paths inside the file stay as they are: they are relative to the working directory of the job.
    Raises ConfigError that lists every problem with its place, value, rule and fix.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the config {path}: {error}") from error
    return parse_config(text, str(path), overrides)


def parse_config(text: str, name: str, overrides: Sequence[str] = ()) -> FuseConfig:
    """Return the checked config of YAML `text`; `name` stands for the file in messages."""
    raw = parse_yaml(text, name)
    if not isinstance(raw, dict):
        raise ConfigError(f"{name} must hold a mapping of sections, got {type(raw).__name__}")
    for override in overrides:
        _apply_override(raw, override)
    merged = _merge_model_defaults(raw, name)
    try:
        # Strict JSON: no "8" for 8, no true for 1, yet a list is a tuple and 1 is a float.
        config = FuseConfig.model_validate_json(json.dumps(merged, ensure_ascii=False).encode("utf-8"), strict=True)
    except UnicodeEncodeError as error:
        raise ConfigError(f"{name} holds half of a surrogate pair, which is no character: {error}") from error
    except ValidationError as error:
        problems = [_problem(text, name, detail) for detail in _causes(error)]
        raise ConfigError(list_problems(f"cannot use {name}", problems)) from error
    if problems := broken_rules(config):
        raise ConfigError(list_problems(f"cannot use {name}", problems))
    return config


def dump_config(config: FuseConfig) -> str:
    """Return the resolved config as JSON, which is YAML too: it can be run again as it is."""
    return json.dumps(config.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"


def _apply_override(raw: dict[str, Any], override: str) -> None:
    dotted, equals, value = override.partition("=")
    if not equals or not dotted:
        raise ConfigError(f"override {override!r} must look like section.key=value")
    *parents, last = dotted.split(".")
    node: Any = raw
    for part in parents:
        node = _descend(node, part, override)
    parsed = parse_yaml(value, f"override {dotted}")
    if isinstance(node, list):
        node[_list_index(node, last, override)] = parsed
    else:
        node[last] = parsed


def _descend(node: Any, part: str, override: str) -> Any:
    child = node[_list_index(node, part, override)] if isinstance(node, list) else node.setdefault(part, {})
    if not isinstance(child, dict | list):
        raise ConfigError(f"override {override!r}: `{part}` is {child!r}, not a section")
    return child


def _list_index(node: list[Any], part: str, override: str) -> int:
    """Find a list item by its number, or by its `name` as in sources.mistral.sampling.num_samples=8."""
    names = [item.get("name") if isinstance(item, dict) else None for item in node]
    if part in names:
        return names.index(part)
    if part.isdecimal() and int(part) < len(node):
        return int(part)
    raise ConfigError(f"override {override!r}: no item `{part}`; there are {len(node)}, named {names}")


def _merge_model_defaults(raw: dict[str, Any], name: str) -> dict[str, Any]:
    defaults = raw.get(MODEL_DEFAULTS, {})
    if not isinstance(defaults, dict):
        raise ConfigError(f"{name}: `{MODEL_DEFAULTS}` must be a section, got {defaults!r}")
    if unknown := sorted(set(defaults) - set(DEFAULT_SECTIONS)):
        raise ConfigError(f"{name}: `{MODEL_DEFAULTS}` may hold {', '.join(DEFAULT_SECTIONS)}; got {unknown}")
    merged = {key: value for key, value in raw.items() if key != MODEL_DEFAULTS}
    if isinstance(merged.get("sources"), list):
        merged["sources"] = [_with_defaults(model, defaults) for model in merged["sources"]]
    if "target" in merged:
        merged["target"] = _with_defaults(merged["target"], defaults)
    return merged


def _with_defaults(model: Any, defaults: Mapping[str, Any]) -> Any:
    if not isinstance(model, dict):
        return model
    merged = dict(model)
    for section, values in defaults.items():
        own = model.get(section, {})
        if isinstance(values, dict) and isinstance(own, dict):
            merged[section] = {**values, **own}
    return merged


def _causes(error: ValidationError) -> list[Any]:
    """Return the details of `error` without those that merely follow from others.

    A list whose only item is broken is called too short as well.
    """
    details: list[Any] = list(error.errors(include_url=False))
    places = [detail["loc"] for detail in details]
    return [detail for detail in details if detail["type"] != "too_short" or not _has_inside(detail["loc"], places)]


def _has_inside(place: tuple[Any, ...], places: list[tuple[Any, ...]]) -> bool:
    return any(len(other) > len(place) and other[: len(place)] == place for other in places)


def _problem(text: str, name: str, detail: Any) -> Problem:
    location = tuple(part for part in detail["loc"] if part not in ("vllm", "transformers", "verifier"))
    dotted = ".".join(str(part) for part in location)
    line = line_of(text, location)
    place = f"{name}{f':{line}' if line else ''} `{dotted}`"
    rule, fix = _rule_and_fix(detail, location)
    value = "(nothing)" if detail["type"] == "missing" else _shown(detail["input"])
    return Problem(place, value, rule, fix)


def _rule_and_fix(detail: Any, location: tuple[str | int, ...]) -> tuple[str, str]:
    message = detail["msg"][0].lower() + detail["msg"][1:]
    if detail["type"] == "extra_forbidden":
        known = _known_fields(location[:-1])
        close = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean `{close[0]}`?" if close else f"known here: {', '.join(known)}"
        return "unknown field", hint
    if detail["type"] == "missing":
        return "this field is required", f"add `{location[-1]}`"
    return message, "change it to a value that keeps the rule"


def _known_fields(path: tuple[str | int, ...]) -> list[str]:
    """Return the field names of the section(s) that stand at `path`."""
    models: list[type[BaseModel]] = [FuseConfig]
    for part in path:
        if isinstance(part, int):
            continue
        annotations = [model.model_fields[part].annotation for model in models if part in model.model_fields]
        models = [found for annotation in annotations for found in _sections_in(annotation)]
    names = sorted({name for model in models for name in model.model_fields})
    return [*names, MODEL_DEFAULTS] if not path else names


def _sections_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for argument in get_args(annotation) for section in _sections_in(argument)]


def _shown(value: Any, limit: int = 80) -> str:
    shown = json.dumps(value, ensure_ascii=True, default=str)
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."
