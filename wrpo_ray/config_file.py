"""From a YAML file and `a.b.c=value` overrides to a checked FuseConfig; every problem is reported at once.

`model_defaults` in the file is laid under `sources[*]` and `target` before anything is checked: it exists in authored
files only, the resolved config holds each model's own values.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from wrpo_ray.config import FuseConfig
from wrpo_ray.config_causes import KeyPath, causes, without_kinds
from wrpo_ray.config_endpoint import source_type
from wrpo_ray.config_rules import broken_rules, shown
from wrpo_ray.config_text import read_config_text
from wrpo_ray.errors import ConfigError, Problem
from wrpo_ray.redaction import HIDDEN, is_secret_name
from wrpo_ray.yaml_loader import excerpt, parse_yaml, position_of

MODEL_DEFAULTS = "model_defaults"
DEFAULT_SECTIONS = ("engine", "sampling", "resources")
# Of these, what an endpoint has too.
_ENDPOINT_SECTIONS = ("sampling",)
_MISSING = "WRPO-C004"


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> FuseConfig:
    """Return the checked config of the YAML file at `path` with `overrides` ("a.b.c=value") applied.

    Relative paths inside the file stay as they are: they are relative to the working directory of the job.
    Raises ConfigError that lists every problem with its place, value, rule and fix.
    """
    path = Path(path)
    return parse_config(read_config_text(path), str(path), overrides)


def parse_config(text: str, name: str, overrides: Sequence[str] = ()) -> FuseConfig:
    """Return the checked config of YAML `text`; `name` stands for the file in messages."""
    raw = parse_yaml(text, name)
    if not isinstance(raw, dict):
        rule = f"{name} must hold a mapping of sections, got {type(raw).__name__}"
        raise ConfigError(rule, code="WRPO-C009", help="begin with `run:`; see jobs/configs for examples")
    overridden = [_apply_override(raw, override) for override in overrides]
    source = _Source(text, name, overridden, raw)
    merged = _merge_model_defaults(raw, name)
    try:
        # Strict JSON: no "8" for 8, no true for 1, yet a list is a tuple and 1 is a float.
        config = FuseConfig.model_validate_json(json.dumps(merged, ensure_ascii=False).encode("utf-8"), strict=True)
    except UnicodeEncodeError as error:
        rule = f"{name} holds half of a surrogate pair, which is no character: {error.reason}"
        raise ConfigError(rule, code="WRPO-C012", help="write the character itself") from error
    except ValidationError as error:
        raise ConfigError.of(f"cannot use {name}", source.problems(error)) from error
    if problems := broken_rules(config):
        located = [source.located(problem, config) for problem in problems]
        raise ConfigError.of(f"cannot use {name}", located)
    return config


def dump_config(config: FuseConfig) -> str:
    """Return the resolved config as JSON, which is YAML too: it can be run again as it is."""
    return json.dumps(config.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"


def _apply_override(raw: dict[str, Any], override: str) -> KeyPath:
    """Set a value of `raw` and return its path."""
    dotted, equals, value = override.partition("=")
    if not equals or not dotted:
        raise _bad_override(override, "must look like section.key=value")
    node: Any = raw
    path: list[str | int] = []
    left = dotted.split(".")
    while True:
        key, shown_part, left = _key(node, left, dotted)
        if not left:
            node[key] = parse_yaml(value, f"override {dotted}")
            return (*path, key)
        child: Any = node.setdefault(key, {}) if isinstance(node, dict) else node[key]
        if not isinstance(child, dict | list):
            raise _bad_override(dotted, f"`{shown_part}` is {shown(child)}, not a section")
        node, path = child, [*path, key]


def _bad_override(override: str, rule: str) -> ConfigError:
    return ConfigError(f"override `{override}`: {rule}", code="WRPO-C011", help="for example wrpo.beta=0.02")


def _key(node: dict[str, Any] | list[Any], parts: list[str], dotted: str) -> tuple[Any, str, list[str]]:
    """Return the next key, as it was written, and the parts behind it.

    A list item is found by number or by `name`, as in sources.mistral.sampling.num_samples=8; a name may hold dots.
    """
    if isinstance(node, dict):
        return parts[0], parts[0], parts[1:]
    names = [item.get("name") if isinstance(item, dict) else None for item in node]
    for length in range(len(parts), 0, -1):
        if (name := ".".join(parts[:length])) in names:
            return names.index(name), name, parts[length:]
    part = parts[0]
    if part.isdecimal() and part.isascii() and int(part) < len(node):
        return int(part), part, parts[1:]
    raise _bad_override(dotted, f"no item `{part}`; there are {len(node)}, named {names}")


def _merge_model_defaults(raw: dict[str, Any], name: str) -> dict[str, Any]:
    defaults = raw.get(MODEL_DEFAULTS, {})
    if not isinstance(defaults, dict):
        raise ConfigError(f"{name}: `{MODEL_DEFAULTS}` must be a section, got {shown(defaults)}", code="WRPO-C010")
    if unknown := sorted(set(defaults) - set(DEFAULT_SECTIONS)):
        rule = f"{name}: `{MODEL_DEFAULTS}` may hold {', '.join(DEFAULT_SECTIONS)}; got {unknown}"
        raise ConfigError(rule, code="WRPO-C010")
    if wrong := [section for section, values in defaults.items() if not isinstance(values, dict)]:
        rule = f"{name}: `{MODEL_DEFAULTS}.{wrong[0]}` must be a section, got {shown(defaults[wrong[0]])}"
        raise ConfigError(rule, code="WRPO-C010")
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
        if source_type(model) == "openai" and section not in _ENDPOINT_SECTIONS:
            continue
        own = model.get(section, {})
        if isinstance(own, dict):
            merged[section] = {**values, **own}
    return merged


@dataclass(frozen=True)
class _Source:
    """Where the values of a config were written: the text of the file, and what overrides set."""

    text: str
    name: str
    overridden: Sequence[KeyPath]
    raw: Mapping[str, Any]

    def problems(self, error: ValidationError) -> list[Problem]:
        """Return one problem for each cause of `error`; what model_defaults brought to many models is one."""
        found = [self._problem(detail) for detail in _without_misspelt(causes(error))]
        return list({(problem.place, problem.rule): problem for problem in found}.values())

    def _problem(self, detail: Any) -> Problem:
        path = without_kinds(detail["loc"])
        if detail["type"].startswith("union_tag"):
            path = (*path, "type")
        place, lines = self._place(self._authored(path))
        rule, fix, code = _rule_and_fix(detail, path)
        value = "(nothing)" if code == _MISSING else shown(detail["input"])
        if detail["type"] == "extra_forbidden" and is_secret_name(str(path[-1])):
            # Only fields that nobody knows are called so. The line holds the value too.
            value, lines = HIDDEN, None
        return Problem(place, value, rule, fix, code, lines)

    def located(self, problem: Problem, config: FuseConfig) -> Problem:
        """Return a problem of a rule over several fields with its line in the file."""
        place, lines = self._place(self._authored(_path_of(problem.place, config)), problem.place)
        return replace(problem, place=place, excerpt=lines)

    def _authored(self, path: KeyPath) -> KeyPath:
        """Return where the value at `path` was written: the model itself, or model_defaults."""
        head = 2 if path[:1] == ("sources",) else 1
        if path[:1] not in (("sources",), ("target",)) or len(path) < head + 2:
            return path
        model: Any = self.raw["sources"][path[1]] if head == 2 else self.raw["target"]
        section, key = path[head : head + 2]
        own = model.get(section, {})
        defaults = self.raw.get(MODEL_DEFAULTS, {}).get(section, {})
        return (MODEL_DEFAULTS, *path[head:]) if key in defaults and key not in own else path

    def _place(self, path: KeyPath, dotted: str | None = None) -> tuple[str, str | None]:
        """Return how a place is named, and the lines of the file around it."""
        dotted = dotted or ".".join(str(part) for part in path)
        if any(path[: len(set_path)] == set_path for set_path in self.overridden):
            return f"override `{dotted}`", None
        position = position_of(self.text, path)
        if position is None:
            return f"{self.name} `{dotted}`", None
        return f"{self.name}:{position.line}:{position.column} `{dotted}`", excerpt(self.text, position)


def _path_of(place: str, config: FuseConfig) -> KeyPath:
    """Return the path in the file of a place such as sources.llama-3.1.engine.dtype; names may hold dots."""
    for index, source in enumerate(config.sources):
        head = f"sources.{source.name}."
        if place.startswith(head):
            return ("sources", index, *place.removeprefix(head).split("."))
    return tuple(place.replace("[*]", "").split("."))


def _without_misspelt(details: list[Any]) -> list[Any]:
    """Leave out fields that are missing because their key was misspelt: that key is a problem of its own."""
    suggested = {
        (*detail["loc"][:-1], name)
        for detail in details
        if detail["type"] == "extra_forbidden"
        for name in _close_names(detail["loc"][-1], _known_fields(without_kinds(detail["loc"])[:-1]))
    }
    return [detail for detail in details if detail["type"] != "missing" or detail["loc"] not in suggested]


def _rule_and_fix(detail: Any, path: KeyPath) -> tuple[str, str, str]:
    """Return rule, fix and code of one detail of a ValidationError (https://docs.pydantic.dev/latest/errors/)."""
    kind = detail["type"]
    if kind == "extra_forbidden":
        known = _known_fields(path[:-1])
        return "unknown field", _close_match(path[-1], known) or f"known here: {', '.join(known)}", "WRPO-C003"
    if kind in ("missing", "union_tag_not_found"):
        return "this field is required", f"add `{path[-1]}`", _MISSING
    rule = detail["msg"][0].lower() + detail["msg"][1:].replace("Input should be", "must be")
    rule = rule.replace("input should be", "must be")
    if kind.endswith(("_type", "_parsing")) or kind in ("int_from_float", "json_invalid"):
        return rule, _fix_of_type(kind, detail["input"]), "WRPO-C007"
    if kind in ("literal_error", "union_tag_invalid"):
        expected = detail["ctx"]["expected" if kind == "literal_error" else "expected_tags"]
        choices = [choice.strip("' ") for choice in expected.replace(" or ", ", ").split(",")]
        found = detail["input"] if kind == "literal_error" else detail["ctx"]["tag"]
        return f"must be {expected}", _close_match(found, choices) or "choose one of these", "WRPO-C006"
    return rule, "change it to a value that keeps the rule", "WRPO-C006"


def _fix_of_type(kind: str, value: Any) -> str:
    if isinstance(value, str) and kind.startswith(("int", "float", "bool")):
        return "write it without quotes and without a unit"
    if isinstance(value, bool) and kind.startswith(("int", "float")):
        return "true and false are no numbers; write the number"
    if value is None:
        return "write a value, or leave the key out to get its default"
    return "write a value of this type"


def _close_match(word: Any, known: Sequence[str]) -> str | None:
    close = _close_names(word, known)
    return f"did you mean `{close[0]}`?" if close else None


def _close_names(word: Any, known: Sequence[str]) -> list[str]:
    return difflib.get_close_matches(str(word), known, n=1, cutoff=0.5)


def _known_fields(path: KeyPath) -> list[str]:
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
