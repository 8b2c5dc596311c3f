"""YAML as people expect it: 1.2 scalars, no duplicate keys, no aliases.

PyYAML speaks YAML 1.1, where `1e-5` is a string, `no` is false and `12:30` is 750. This loader reads the YAML 1.2
core types instead, so a learning rate may be written as every paper writes it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import yaml

from wrpo_ray.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """SafeLoader with the YAML 1.2 core scalar types, without aliases, tags and keys that are no text."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise _refused(event.start_mark, "YAML aliases (`*name`) are not supported", "write the value out")
        if getattr(event, "tag", None) is not None:
            raise _refused(event.start_mark, "YAML tags (`!name`) are not supported", "write the bare value")
        return super().compose_node(parent, index)

    def construct_scalar(self, node: Any) -> str:
        text = super().construct_scalar(node)
        if not any("\ud800" <= character <= "\udfff" for character in text):
            return text
        try:
            # JSON writes what lies beyond 16 bits as two escapes, and JSON is YAML.
            return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
        except UnicodeDecodeError as error:
            rule = "half of a surrogate pair is no character"
            raise _refused(node.start_mark, rule, "write the character itself", "WRPO-C012") from error

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise _refused(key_node.start_mark, "a key must be text", "put it in quotes")
            if key in seen:
                raise _refused(key_node.start_mark, f"the key `{key}` is written twice", "keep one of them")
            seen.add(key)
        return super().construct_mapping(node, deep)


def _refused(mark: Any, rule: str, fix: str, code: str = "WRPO-C008") -> ConfigError:
    place = f"{mark.name}:{mark.line + 1}:{mark.column + 1}"
    return ConfigError(f"{place}: {rule}", code=code, help=fix)


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("null", r"^(?:~|null|Null|NULL|)$", "~nN\0"),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("int", r"^[-+]?(?:0|[1-9][0-9]*)$", "-+0123456789"),
    # Digits alone are no float: 010 is neither eight nor ten here, but text, which a number's field refuses.
    ("float", r"^[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?$", "-+.0123456789"),
    ("float", r"^(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$", "-+."),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first.replace("\0", "")))
# An empty scalar has no first character; PyYAML looks it up under "".
_Loader.yaml_implicit_resolvers.setdefault("", []).append(("tag:yaml.org,2002:null", re.compile(r"^$")))


def parse_yaml(text: str, name: str) -> Any:
    """Return the value that `text` holds; `name` is the file's name in error messages.

    Raises ConfigError with line and column when it is not valid YAML, repeats a key, or uses an alias or a tag.
    """
    try:
        loader = _Loader(text)
        loader.name = name
        return loader.get_single_data()
    except ConfigError:
        # It is a ValueError too, and says already what is wrong.
        raise
    except yaml.YAMLError as error:
        raise ConfigError(f"{name} is not valid YAML: {_first_fault(error)}", code="WRPO-C005") from error
    except RecursionError as error:
        raise ConfigError(f"{name} is nested too deeply", code="WRPO-C008", help="a config has few levels") from error
    except ValueError as error:
        # int() refuses numbers of more than 4300 digits.
        raise ConfigError(f"{name} holds a number that cannot be read: {error}", code="WRPO-C005") from error


def _first_fault(error: yaml.YAMLError) -> str:
    """Return what is wrong and where, without the quoted text: it may hold a secret or a control character."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return ascii(str(error).partition("\n")[0])
    mark = error.problem_mark
    return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"


@dataclass(frozen=True)
class Position:
    """Where a key or list item stands in a text: line and column count from 1, width in characters."""

    line: int
    column: int
    width: int


def position_of(text: str, path: tuple[str | int, ...]) -> Position | None:
    """Return where the key or list item at `path`, or else its nearest existing parent, stands in the YAML `text`."""
    try:
        node = yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, UnicodeEncodeError, RecursionError):
        # It is stricter than the loader that read the text; a problem without its line is still a problem.
        return None
    position = None
    for part in path:
        found = _child(node, part)
        if found is None:
            return position
        named, node = found
        start, end = named.start_mark, named.end_mark
        width = end.column - start.column if end.line == start.line else 1
        position = Position(start.line + 1, start.column + 1, max(1, width))
    return position


def _child(node: Any, part: str | int) -> tuple[Any, Any] | None:
    """Return the node that names a child, its key or itself, and the child."""
    if isinstance(node, yaml.MappingNode):
        return next(((key, value) for key, value in node.value if key.value == part), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part], node.value[part]
    return None


def excerpt(text: str, position: Position, limit: int = 100) -> str | None:
    """Return the line at `position` with marks below what it is about; None when the line is too long to be shown."""
    lines = text.splitlines()
    if position.line > len(lines) or len(lines[position.line - 1]) > limit:
        return None
    number, line = str(position.line), lines[position.line - 1]
    if not line.isprintable():
        return None
    margin = " " * len(number)
    return f"{number} | {line}\n{margin} | {' ' * (position.column - 1)}{'^' * position.width}"
