"""What of a model's files may run: code of its own only with the hash of each file, code of others never."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from wrpo_ray.errors import ModelError, Problem
from wrpo_ray.storage.manifest import file_sha256

# Files from which transformers and vLLM read what they do with a model.
_SETTINGS = (
    "config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json",
    "video_preprocessor_config.json", "generation_config.json",
)  # fmt: skip
# Values with a slash name a repository whose compiled code would be fetched and run (transformers' hub kernels).
_KERNEL_KEYS = ("attn_implementation", "experts_implementation")
_CODE_KEYS = ("code_revision", "trust_remote_code")
_ADAPTER = "adapter_config.json"
# vLLM (EngineArgs, maybe_override_with_speculators) takes such a model for a draft of the one that it names.
_SPECULATORS = "speculators_config"


def code_files(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each Python file of a model, by its path below `folder`."""
    paths = sorted(path for path in folder.rglob("*.py") if path.is_file())
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in paths}


def require_known_code(folder: Path, known: Mapping[str, str]) -> None:
    """Raise ModelError unless each Python file of a model is one of `known`, SHA-256 by path; none is read as code."""
    if problem := unknown_code(folder, known):
        raise ModelError(f"{folder}: {problem.rule}", code=problem.code, help=problem.fix)


def unknown_code(folder: Path, known: Mapping[str, str], place: str = "model") -> Problem | None:
    """Return a problem when a Python file of the model is not among `known`; the fix says what would make it so.

    A folder may lack files of `known`: a trained model keeps those that its classes need.
    """
    found = code_files(folder)
    strange = [path for path, sha256 in found.items() if known.get(path) != sha256]
    if not strange:
        return None
    changed = [path for path in strange if path in known]
    rule = "code of a model runs only when code_sha256 has the hash of each of its Python files"
    rule += f"; {changed[0]} is not the file that it names" if changed else f"; {strange[0]} is not among them"
    lines = ", ".join(f"{path}: {sha256}" for path, sha256 in found.items())
    fix = f"read these files; if they may run, write code_sha256: {{{lines}}}"
    return Problem(f"{place}.code_sha256", f"{len(known)} hashes for {len(found)} files", rule, fix, "WRPO-M019")


def check_settings(place: str, path: str, folder: Path, names: frozenset[str], may_run: bool) -> Iterator[Problem]:
    """Yield a problem for whatever in a model's files would fetch code, or a model, that nobody named.

    names: of all files of the model. may_run: its own code is allowed; that of other repositories never is.
    """
    if _ADAPTER in names:
        rule = f"{_ADAPTER} makes transformers load another model, which it names, beside this one"
        fix = "merge the adapter into its model and name the result, or remove that file"
        yield Problem(f"{place}.path", path, rule, fix, "WRPO-M020")
    for name in _SETTINGS:
        settings = _read(folder / name)
        if isinstance(settings, dict) and settings.get(_SPECULATORS) is not None:
            rule = f"{name} has {_SPECULATORS}: vLLM loads the model that it names in place of this one"
            fix = "name that model itself, or remove the key if the model works without it"
            yield Problem(f"{place}.path", path, rule, fix, "WRPO-M020")
        for key, value in _leaves(settings):
            if why := _why_not(key, value, may_run):
                rule = f"{name} has {key} = {json.dumps(value)[:200]}: {why}"
                fix = "take it out of that file if the model works without it, or choose another model"
                yield Problem(f"{place}.path", path, rule, fix, "WRPO-M020")


def _why_not(key: str, value: Any, may_run: bool) -> str | None:
    names = key.split(".")
    if "auto_map" in names and isinstance(value, str) and "--" in value:
        return "code of another repository, which no revision and no hash of this one pins"
    if isinstance(value, str) and "/" in value and any(kernel in name for name in names for kernel in _KERNEL_KEYS):
        return "a kernel of another repository would be fetched and run"
    if names[-1] in _CODE_KEYS and value and not may_run:
        return "it asks for code to be run, and trust_remote_code is false"
    return None


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        # Whether a file is there and can be read is looked at where it is needed.
        return {}


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what a parsed JSON file holds, with its place: keys with points between them."""
    if isinstance(value, dict):
        for name, child in value.items():
            yield from _leaves(child, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for child in value:
            yield from _leaves(child, key)
    else:
        yield key, value
