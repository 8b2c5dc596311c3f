"""The shape of every model that a config names: from its folder, the hub's cache on this machine, or the table."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from wrpo_ray.config import FuseConfig, ModelFiles
from wrpo_ray.config_rules import model_sections
from wrpo_ray.errors import ConfigError, ModelError, Problem, StorageError
from wrpo_ray.model_paths import in_object_store, is_local
from wrpo_ray.models import local_model
from wrpo_ray.planning.known_models import KNOWN, known_shape
from wrpo_ray.planning.shapes import ModelShape, shape_of, stored_parameters


@dataclass(frozen=True)
class FoundShape:
    """A shape and where it comes from. quantization: how its files say that they are quantized, if they do."""

    shape: ModelShape
    origin: str
    quantization: str | None = None


def find_shapes(config: FuseConfig) -> dict[str, FoundShape]:
    """Return the shapes by section: "sources.<name>", "target", "reward".

    Raises ConfigError that lists every model whose shape is not known.
    """
    return find_shapes_of(model_sections(config))


def find_shapes_of(sections: Iterable[tuple[str, ModelFiles]]) -> dict[str, FoundShape]:
    """Return the shapes of these models by the section that names them; raises as find_shapes does."""
    found = {place: _find(place, files) for place, files in sections}
    if problems := [shape for shape in found.values() if isinstance(shape, Problem)]:
        raise ConfigError.of("cannot plan without the models' shapes", problems)
    return {place: shape for place, shape in found.items() if isinstance(shape, FoundShape)}


def _find(place: str, files: ModelFiles) -> FoundShape | Problem:
    folder = _folder(files)
    if folder is not None and (folder / "config.json").is_file():
        return _read(place, files, folder)
    known = known_shape(files.path)
    if known is not None:
        return FoundShape(known, "the built-in table")
    rule = "the model's config.json is not at hand, and the built-in table does not have it"
    fix = f"give a folder, or fetch it: hf download {files.path} config.json; the table has {_names(KNOWN)}"
    return Problem(f"{place}.path", files.path, rule, fix, "WRPO-C060")


def _folder(files: ModelFiles) -> Path | None:
    """Return the folder with the model's small files, if it is on this machine or in an object store."""
    if in_object_store(files.path):
        try:
            return Path(local_model(files.path, with_weights=False))
        except (ModelError, StorageError):
            return None
    if is_local(files.path):
        return Path(files.path).expanduser()
    from huggingface_hub import errors, try_to_load_from_cache

    try:
        cached = try_to_load_from_cache(files.path, "config.json", revision=files.revision)
    except errors.HFValidationError:
        return None
    return Path(cached).parent if isinstance(cached, str) else None


def _read(place: str, files: ModelFiles, folder: Path) -> FoundShape | Problem:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        quantized = config.get("quantization_config")
        method = quantized.get("quant_method") if isinstance(quantized, dict) else None
        return FoundShape(
            shape_of(config, stored_parameters(folder)), "its config.json", method if isinstance(method, str) else None
        )
    except KeyError as error:
        rule = f"its config.json does not tell {error.args[0]}"
    except (OSError, ValueError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        rule = f"its files cannot be read: {type(error).__name__}: {error}"
    return Problem(f"{place}.path", files.path, rule, "name a model in Hugging Face format", "WRPO-C060")


def _names(models: Iterable[str]) -> str:
    return ", ".join(models)
