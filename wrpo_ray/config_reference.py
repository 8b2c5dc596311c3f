"""What every field of a config means, read from its types: `wrpo-ray explain wrpo.beta`, and docs/config.md."""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from wrpo_ray.config import FuseConfig

_BOUNDS = {Ge: ("ge", "at least"), Gt: ("gt", "above"), Le: ("le", "at most"), Lt: ("lt", "below")}
_NAMES = {str: "text", int: "integer", float: "number", bool: "true or false"}


@dataclass(frozen=True)
class Field:
    """One field of a section. sections: the types of section that it holds, when it holds one."""

    name: str
    kind: str
    default: str
    help: str
    sections: tuple[type[BaseModel], ...]


@dataclass(frozen=True)
class Section:
    """One type of section, and the paths at which a config may have it."""

    model: type[BaseModel]
    paths: tuple[str, ...]

    @property
    def title(self) -> str:
        """Its name, as the reference calls it."""
        return self.model.__name__.removesuffix("Config")

    @property
    def help(self) -> str:
        """What it is for."""
        return inspect.getdoc(self.model) or ""

    @property
    def fields(self) -> list[Field]:
        """Its fields in their order."""
        return [_field(name, info) for name, info in self.model.model_fields.items()]


def sections() -> list[Section]:
    """Return all types of section, each once, in the order in which a config names them first."""
    paths: dict[type[BaseModel], list[str]] = {FuseConfig: [""]}
    _collect(FuseConfig, "", paths)
    return [Section(model, tuple(found)) for model, found in paths.items()]


def _collect(model: type[BaseModel], path: str, paths: dict[type[BaseModel], list[str]]) -> None:
    for field in Section(model, ()).fields:
        for held in field.sections:
            below = f"{path}.{field.name}".lstrip(".")
            known = paths.setdefault(held, [])
            if below not in known:
                known.append(below)
            _collect(held, below, paths)


def _field(name: str, info: FieldInfo) -> Field:
    default = "required" if info.is_required() else _default(info.get_default(call_default_factory=True))
    held = tuple(_models(info.annotation))
    return Field(name, _kind(info.annotation, info.metadata), default, inspect.cleandoc(info.description or ""), held)


def _default(value: Any) -> str:
    if isinstance(value, BaseModel):
        return "its defaults"
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (tuple, list, dict)) and not value:
        return "empty"
    if isinstance(value, tuple):
        return f"[{', '.join(map(_default, value))}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def _kind(annotation: Any, metadata: list[Any] | tuple[Any, ...] = ()) -> str:
    """Return a type and its bounds in words."""
    words, bounds = _type_in_words(annotation), [*_bounds(metadata)]
    return f"{words}, {' and '.join(bounds)}" if bounds else words


def _type_in_words(annotation: Any) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(parts[0], parts[1:])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in parts)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys("none" if part is type(None) else _type_in_words(part) for part in parts))
    if origin is tuple:
        return f"list of {_type_in_words(parts[0])}"
    if origin is dict:
        return f"map of {_type_in_words(parts[0])} to {_type_in_words(parts[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation.__name__.removesuffix("Config")
    # JsonValue is an alias of an alias; no table would gain by its parts.
    return _NAMES.get(annotation, "any JSON value")


def _bounds(metadata: list[Any] | tuple[Any, ...]) -> Iterator[str]:
    for item in metadata:
        if type(item) in _BOUNDS:
            attribute, words = _BOUNDS[type(item)]
            bound = getattr(item, attribute)
            yield f"{words} {int(bound) if bound == int(bound) else bound}"
        elif isinstance(item, MinLen):
            yield "not empty" if item.min_length == 1 else f"at least {item.min_length} of them"
        elif isinstance(item, FieldInfo):
            yield from _bounds(item.metadata)
        elif pattern := getattr(item, "pattern", None):
            yield f"matching `{pattern}`"


def explain_field(path: str) -> str | None:
    """Return what the field or section at `path` is, such as wrpo.alpha.end; None when there is none.

    A source stands for all of them, whatever it is called: sources.qwen.path is explained as sources.path.
    """
    parts = path.split(".")
    if parts[0] == "sources" and len(parts) > 1 and parts[1] not in _names_of("sources"):
        parts.pop(1)
    below, name = ".".join(parts[:-1]), parts[-1]
    found = [field for section in _at(below) for field in section.fields if field.name == name]
    if not found:
        return None
    return "\n\n".join(_explained(".".join(parts), field) for field in dict.fromkeys(found))


def _at(path: str) -> list[Section]:
    return [section for section in sections() if path in section.paths]


def _names_of(path: str) -> set[str]:
    return {field.name for section in _at(path) for field in section.fields}


def _explained(path: str, field: Field) -> str:
    lines = [f"{path}: {_plain(field)}"]
    lines += [field.help] if field.help else []
    for held in field.sections:
        section = Section(held, ())
        lines += [
            "",
            f"{section.title}: {section.help}",
            *(f"  {each.name}: {_plain(each)}" for each in section.fields),
        ]
    return "\n".join(lines)


def _plain(field: Field) -> str:
    default = "required" if field.default == "required" else f"default: {field.default}"
    return f"{field.kind}; {default}".replace("`", "")


def markdown() -> str:
    """Return docs/config.md."""
    lines = [
        "# Configuration",
        "",
        "Written by `wrpo-ray explain --config-markdown`; edit the types in `wrpo_ray/config*.py` instead. A config is"
        " YAML; every value can be replaced on the command line (`wrpo.beta=0.02`, `sources.qwen.path=...`).",
    ]
    for section in sections():
        lines += ["", f"## {section.title}", "", section.help, ""]
        where = [f"`{path}`" for path in section.paths if path]
        lines += [f"At {', '.join(where)}.", ""] if where else []
        lines += ["| field | type | default | meaning |", "|---|---|---|---|"]
        lines += [_row(field) for field in section.fields]
    return "\n".join(lines) + "\n"


def _row(field: Field) -> str:
    kind = field.kind
    for held in field.sections:
        title = held.__name__.removesuffix("Config")
        kind = kind.replace(title, f"[{title}](#{title.lower()})") if f"[{title}]" not in kind else kind
    cells = (f"`{field.name}`", kind, field.default, " ".join(field.help.split()))
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
