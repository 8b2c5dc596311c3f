"""The fused model and its data as folders that other tools open without an edit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from wrpo_ray.chat import ChatTokenizer
from wrpo_ray.config import FuseConfig
from wrpo_ray.data.exporters import to_trl_preference, to_wrpo_release
from wrpo_ray.errors import ConfigError, StorageError
from wrpo_ray.model_card import dataset_card
from wrpo_ray.models import local_model, tokenizer_of
from wrpo_ray.schema import Quadruple
from wrpo_ray.storage.location import Location, json_bytes, locate
from wrpo_ray.storage.manifest import FileEntry
from wrpo_ray.storage.tables import parquet_entries, read_file, write_file, write_table

_GENERATION_CONFIG, _CARD = "generation_config.json", "README.md"


def export_model(config: FuseConfig, model: Location, card: str, folder: Location) -> list[FileEntry]:
    """Write the Hugging Face folder model/ of the fused model below `folder`, and return its files.

    Weights, tokenizer and chat template as trained, a complete generation config, and `card` as README.md.
    """
    source = Path(local_model(str(model)))
    own = {
        _GENERATION_CONFIG: _complete_generation_config(config, source),
        _CARD: card.encode("utf-8"),
    }
    names = sorted(path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file())
    files = [_stored(folder, f"model/{name}", source / name) for name in names if name not in own]
    return files + [write_file(folder, f"model/{name}", content) for name, content in own.items()]


def export_datasets(
    config: FuseConfig, quadruples: Location, folder: Location
) -> tuple[list[FileEntry], dict[str, int]]:
    """Write the quadruples below datasets/ as TRL preference data and in the paper's row format, file by file.

    Returns the files and the counts.
    """
    pairs: list[FileEntry] = []
    release: list[FileEntry] = []
    entries = parquet_entries(quadruples)
    for entry in entries:
        rows = read_file(quadruples, entry, Quadruple)
        pairs += _data_file(folder, "trl_preference", len(pairs), to_trl_preference(rows, config.target.name))
        release += _data_file(folder, "wrpo_release", len(release), to_wrpo_release(rows))
    cards = [
        write_file(folder, f"datasets/{name}/{_CARD}", dataset_card(config, name).encode("utf-8"))
        for name in ("trl_preference", "wrpo_release")
    ]
    counts = {
        "num_preference_pairs": _num_rows(pairs),
        "num_release_rows": _num_rows(release),
        "num_not_in_release_format": _num_rows(entries) - _num_rows(release),
    }
    return [*pairs, *release, *cards], counts


def _data_file(folder: Location, name: str, number: int, table: pa.Table) -> list[FileEntry]:
    """Write one more file of a data set, unless it has no rows: `datasets.load_dataset` stumbles over such files.

    How many there will be is not known yet, so its name does not tell.
    """
    return [write_table(folder, f"datasets/{name}/data/train-{number:05d}.parquet", table)] if table.num_rows else []


def _num_rows(entries: Sequence[FileEntry]) -> int:
    """Return the rows of all files."""
    return sum(entry.num_rows or 0 for entry in entries)


def deliver(model: Location, destination: str) -> None:
    """Copy the exported folder to `destination`; raises ConfigError when something else lies there already."""
    source, target = Path(local_model(str(model))), locate(destination)
    names = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()}
    strangers = [place for place in target.walk() if place.relative_to(target) not in names]
    if not names:
        raise StorageError(f"{model} holds no model to deliver", code="WRPO-S016")
    if strangers:
        raise ConfigError(
            f"export.path {destination} holds other files, such as {strangers[0].name}",
            code="WRPO-C030",
            help="name an empty folder",
        )
    for name in sorted(names):
        path = (target / name).local_path
        if path is None:
            (target / name).upload(source / name)
        else:
            # A copy, never a second name: whoever edits it must not edit the run.
            locate(source / name).download(path)


def _stored(folder: Location, path: str, source: Path) -> FileEntry:
    """Store a local file below `folder`; the same file system gives it a second name: weights are never changed."""
    stored = (folder / path).upload(source)
    return FileEntry(path, stored.num_bytes, stored.sha256, None)


def _complete_generation_config(config: FuseConfig, model: Path) -> bytes:
    """Make sure that generation stops at the chat template's end token, whatever the target's own config says."""
    path = model / _GENERATION_CONFIG
    stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    trained = config.target.model_copy(update={"path": str(model), "revision": None, "chat_template": None})
    end = ChatTokenizer(tokenizer_of(trained)).end_token_id
    given = stored.get("eos_token_id")
    known = given if isinstance(given, list) else [] if given is None else [given]
    return json_bytes({**stored, "eos_token_id": [end, *(token for token in known if token != end)]})
