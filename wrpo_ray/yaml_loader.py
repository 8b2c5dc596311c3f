"""YAML as people expect it: 1.2 scalars, no duplicate keys, no aliases.

PyYAML speaks YAML 1.1, where `1e-5` is a string, `no` is false and `12:30` is 750. This loader reads the YAML 1.2
core types instead, so a learning rate may be written as every paper writes it.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from wrpo_ray.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """SafeLoader with the YAML 1.2 core scalar types; built below."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise ConfigError(f"{event.start_mark}: YAML aliases (`*name`) are not supported; write the value out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise ConfigError(f"{key_node.start_mark}: a key must be text, got {key!r}; put it in quotes")
            if key in seen:
                raise ConfigError(f"{key_node.start_mark}: the key `{key}` is written twice; keep one of them")
            seen.add(key)
        return super().construct_mapping(node, deep)


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

    Raises ConfigError with line and column when it is not valid YAML, repeats a key, or uses an alias.
    """
    try:
        loader = _Loader(text)
        loader.name = name
        return loader.get_single_data()
    except yaml.YAMLError as error:
        raise ConfigError(f"{name} is not valid YAML: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{name} is nested too deeply") from error


def line_of(text: str, path: tuple[str | int, ...]) -> int | None:
    """Return the 1-based line on which the value at `path` (or its nearest existing parent) stands."""
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    line = None
    for part in path:
        child = None
        if isinstance(node, yaml.MappingNode):
            for key_node, value_node in node.value:
                if key_node.value == part:
                    child, line = value_node, key_node.start_mark.line + 1
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            child, line = node.value[part], node.value[part].start_mark.line + 1
        if child is None:
            return line
        node = child
    return line
