"""The fused model and its data as folders that other tools open without an edit."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wrpo_ray.chat import ChatTokenizer
from wrpo_ray.config import FuseConfig
from wrpo_ray.data.exporters import to_trl_preference, to_wrpo_release
from wrpo_ray.errors import ConfigError
from wrpo_ray.model_card import dataset_card, model_card
from wrpo_ray.models import load_tokenizer
from wrpo_ray.schema import Quadruple
from wrpo_ray.storage import read_rows, write_bytes, write_json, write_table


def export_model(config: FuseConfig, model: Path, summaries: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
    """Write the Hugging Face folder of the fused model: weights, tokenizer, chat template, generation config, card."""
    for path in sorted(path for path in model.rglob("*") if path.is_file()):
        link_or_copy(path, folder / path.relative_to(model))
    _complete_generation_config(config, folder)
    write_bytes(folder / "README.md", model_card(config, summaries).encode("utf-8"))


def export_datasets(config: FuseConfig, quadruples: Path, folder: Path) -> dict[str, int]:
    """Write the quadruples as TRL preference data and in the paper's row format; return the counts."""
    rows = read_rows(quadruples, Quadruple)
    preference = to_trl_preference(rows, config.target.name)
    release, num_left_out = to_wrpo_release(rows)
    for name, table in (("trl_preference", preference), ("wrpo_release", release)):
        write_table(folder / name / "data" / "train-00000-of-00001.parquet", table)
        write_bytes(folder / name / "README.md", dataset_card(config, name).encode("utf-8"))
    return {
        "num_preference_pairs": preference.num_rows,
        "num_release_rows": release.num_rows,
        "num_not_in_release_format": num_left_out,
    }


def deliver(model: Path, destination: Path) -> None:
    """Copy the exported folder to `destination`; raises ConfigError when something else lies there already."""
    names = {path.relative_to(model) for path in model.rglob("*") if path.is_file()}
    strangers = [
        path for path in destination.rglob("*") if path.is_file() and path.relative_to(destination) not in names
    ]
    if strangers:
        raise ConfigError(
            f"export.path {destination} holds other files, such as {strangers[0].name}; name an empty folder"
        )
    shutil.copytree(model, destination, dirs_exist_ok=True)


def link_or_copy(source: Path, destination: Path) -> None:
    """Give `source` a second name, or copy it where the file system cannot; weights are large and never change."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    destination.unlink(missing_ok=True)
    try:
        os.link(source, destination)
    except OSError:
        shutil.copy2(source, destination)


def _complete_generation_config(config: FuseConfig, folder: Path) -> None:
    """Make sure that generation stops at the chat template's end token, whatever the target's own config says."""
    path = folder / "generation_config.json"
    stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    tokenizer = load_tokenizer(str(folder), trust_remote_code=config.target.trust_remote_code)
    end = ChatTokenizer(tokenizer).end_token_id
    given = stored.get("eos_token_id")
    known = given if isinstance(given, list) else [] if given is None else [given]
    # A new file, not a change in place: the old one may be a second name of the training step's file.
    write_json(path, {**stored, "eos_token_id": [end, *(token for token in known if token != end)]})
