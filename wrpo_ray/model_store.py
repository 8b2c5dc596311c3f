"""Models of the hub in storage that all nodes see: put there once by `wrpo-ray fetch`, read from there by runs.

<store>/<organisation>--<name>/refs/<branch>.json           the commit that a branch or tag stood at when it was fetched
<store>/<organisation>--<name>/<commit>/model/...           safetensors, configuration, tokenizer, code where it may run
<store>/<organisation>--<name>/<commit>/manifest.json       written last: each file with its size and SHA-256
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

from wrpo_ray.config import FuseConfig, ModelFiles
from wrpo_ray.config_rules import model_sections
from wrpo_ray.errors import ConfigError, ModelError, Problem, StorageError
from wrpo_ray.hub_models import is_commit, read_record
from wrpo_ray.model_paths import is_on_hub
from wrpo_ray.storage.location import Location, locate
from wrpo_ray.storage.manifest import FileEntry, Manifest, create_manifest, read_manifest

_STEP = "fetch"
_DEFAULT_BRANCH = "main"


class Origin(NamedTuple):
    """Which model of the hub a folder is a copy of."""

    name: str
    commit: str


def folder_in(store: str, name: str, commit: str) -> Location:
    """Return where a model's copy and its manifest lie."""
    return locate(store) / name.replace("/", "--") / commit


def put(store: str, name: str, commit: str, fetched: Path) -> bool:
    """Copy a fetched folder (hub_models.hub_folder) into the store; False when it is there already.

    Whoever comes second at the same time writes the same files; the manifest is the first one's. Raises StorageError.
    """
    place, record = folder_in(store, name, commit), read_record(fetched)
    if record is None:
        raise ModelError(f"{fetched} was not fetched from the hub", code="WRPO-M018")
    there = read_manifest(place)
    if there is not None and {f"model/{path}" for path in record["files"]} <= {entry.path for entry in there.files}:
        return False
    if there is not None:
        # It was fetched without its code, say, which may run by now: the new copy has more files.
        (place / "manifest.json").delete()
    files = tuple(_upload(place, f"model/{path}", fetched / path) for path in sorted(record["files"]))
    summary = {"hub": name, "commit": commit, "names": record["names"]}
    create_manifest(place, Manifest(_STEP, commit, {"hub": name}, {}, files, summary, {}, 0.0))
    return True


def _upload(place: Location, path: str, source: Path) -> FileEntry:
    # A link into the hub's cache would be stored as a link by a store on the same file system.
    stored = (place / path).upload(source.resolve())
    return FileEntry(path, stored.num_bytes, stored.sha256, None)


def note_branch(store: str, name: str, revision: str | None, commit: str) -> None:
    """Note which commit a branch or tag stood at; a later fetch may change it."""
    if not is_commit(revision):
        _branch(store, name, revision).write_sealed({"hub": name, "commit": commit})


def _branch(store: str, name: str, revision: str | None) -> Location:
    # Branches may hold slashes and worse: the file's name is a hash, its content says the rest.
    branch = revision or _DEFAULT_BRANCH
    place = locate(store) / name.replace("/", "--") / "refs"
    return place / f"{hashlib.sha256(branch.encode('utf-8')).hexdigest()[:16]}.json"


def find(store: str, name: str, revision: str | None) -> Location | None:
    """Return the folder of a model in the store at a revision, or None when it was not fetched."""
    commit = revision if revision is not None and is_commit(revision) else _noted(_branch(store, name, revision))
    if commit is None:
        return None
    place = folder_in(store, name, commit)
    return place / "model" if read_manifest(place) is not None else None


def _noted(branch: Location) -> str | None:
    """Return the commit that was noted of a branch, None for one that was not fetched; raises StorageError."""
    try:
        commit = branch.read_sealed().get("commit")
    except FileNotFoundError:
        return None
    if not isinstance(commit, str) or not is_commit(commit):
        help = "remove that file and fetch the model again: wrpo-ray fetch CONFIG"
        raise StorageError(f"{branch} names no commit: {commit!a}", code="WRPO-S023", help=help)
    return commit


def origin(path: str) -> Origin | None:
    """Return which hub model a folder of a store is a copy of, or None for any other folder."""
    place = locate(path)
    parent, _, name = place.key.rpartition("/")
    if name != "model" or not parent:
        return None
    try:
        found = read_manifest(Location(place.store, parent))
    except StorageError:
        return None
    if found is None or found.step != _STEP:
        return None
    hub, commit = found.summary.get("hub"), found.summary.get("commit")
    return Origin(hub, commit) if isinstance(hub, str) and isinstance(commit, str) and is_commit(commit) else None


def stored_if_there(config: FuseConfig) -> FuseConfig:
    """Return what `stored` does, or `config` when the store lacks a model or does not answer; for plans."""
    try:
        return stored(config)
    except (ConfigError, StorageError):
        return config


def stored(config: FuseConfig) -> FuseConfig:
    """Return `config` with the models of the hub replaced by their copies in `models.store`, where one is named.

    Raises ConfigError that lists all models which are not there.
    """
    store = config.models.store
    if store is None:
        return config
    problems: list[Problem] = []

    def at(place: str, files: ModelFiles) -> ModelFiles:
        if not is_on_hub(files.path):
            return files
        found = find(store, files.path, files.revision)
        if found is None:
            value = files.path + (f" at {files.revision}" if files.revision else "")
            fix = "fetch it: wrpo-ray fetch CONFIG"
            problems.append(Problem(f"{place}.path", value, f"{store} does not hold this model", fix, "WRPO-M021"))
            return files
        return files.model_copy(update={"path": str(found), "revision": None})

    replaced = {place: at(place, files) for place, files in model_sections(config)}
    if problems:
        raise ConfigError.of(f"run {config.run.name} cannot start", problems)
    sources = tuple(replaced.get(f"sources.{source.name}", source) for source in config.sources)
    reward = replaced.get("reward", config.reward)
    return config.model_copy(update={"sources": sources, "target": replaced["target"], "reward": reward})
