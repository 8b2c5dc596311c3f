"""Manifests as YAML text, on the terminal or in a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from wrpo_ray.errors import StorageError


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as such, and repeats what occurs twice instead of pointing at it."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)


def yaml_text(objects: Sequence[Mapping[str, Any]], header: str) -> str:
    """Return the objects as one YAML stream below a comment."""
    comment = "".join(f"# {line}\n" for line in header.splitlines())
    return comment + yaml.dump_all(objects, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


def write_files(folder: Path, texts: Mapping[str, str]) -> None:
    """Write the texts by file name; raises StorageError where that cannot be done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        help = "choose another folder for --out"
        raise StorageError(f"cannot write {folder}: {error.strerror}", code="WRPO-S002", help=help) from error
