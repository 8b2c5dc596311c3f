"""A file that is laid over a run's config: what is different on one cluster, kept apart from the run itself."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from wrpo_ray.config_text import read_config_text
from wrpo_ray.errors import ConfigError
from wrpo_ray.yaml_loader import parse_yaml


def overrides_of(path: str) -> list[str]:
    """Return the values of a YAML file as overrides; a section is laid over, a list or `cluster` replaces the whole.

    Sources are named, as in overrides: `sources: {qwen: {path: s3://bucket/qwen}}`. Raises ConfigError for a file that
    cannot be read or holds no sections.
    """
    raw = parse_yaml(read_config_text(Path(path), "overlay"), path)
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} must hold sections, as a config does", code="WRPO-C145", help="see cluster/sites")
    return list(_flat(raw, ""))


def _flat(node: Mapping[str, Any], place: str) -> Iterator[str]:
    for key, value in node.items():
        dotted = f"{place}{key}"
        if isinstance(value, dict) and value and dotted != "cluster":
            yield from _flat(value, f"{dotted}.")
        else:
            yield f"{dotted}={json.dumps(value, ensure_ascii=False)}"
