"""`wrpo-ray fetch CONFIG`: the hub's models of a run, pinned to commits, fetched once and compared by hash.

They come into this node's cache, and with `models.store` into the folder or object store that all nodes read. A run
then needs no network for them: set HF_HUB_OFFLINE=1 to be sure.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from wrpo_ray.config import FuseConfig, ModelFiles
from wrpo_ray.config_file import load_config
from wrpo_ray.config_rules import model_sections
from wrpo_ray.errors import ConfigError, Problem
from wrpo_ray.hub_models import Kind, commit_of, hub_folder, is_commit, read_record
from wrpo_ray.model_paths import is_on_hub
from wrpo_ray.model_store import folder_in, note_branch, put
from wrpo_ray.model_trust import unknown_code
from wrpo_ray.preflight.model_folder import check_remote_code, check_trust, check_weights, locate_model
from wrpo_ray.storage.manifest import verify_files


@dataclass(frozen=True)
class Fetched:
    """One model that is at hand. place: its section of the config. revision: as the config has it."""

    place: str
    hub: str
    revision: str | None
    commit: str
    num_files: int
    num_bytes: int
    folder: str
    """Where engines read it: below this node's cache, or in the store."""
    was_there: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("config", metavar="CONFIG", help="YAML file of the run")
    parser.add_argument("overrides", nargs="*", metavar="a.b.c=value", help="replaces a value of the config")
    parser.add_argument("--to", metavar="PLACE", help="folder, s3://... or gs://... in place of models.store")
    parser.add_argument("--json", action="store_true", help="print what was fetched as JSON")


def main(options: argparse.Namespace) -> int:
    """Fetch and print; raises ConfigError that lists every model that cannot be had or must not be used."""
    to = [f"models.store={json.dumps(options.to)}"] if options.to else []
    config = load_config(options.config, [*options.overrides, *to])
    found = fetch(config, config.models.store)
    print(json.dumps([asdict(each) for each in found], indent=2) if options.json else shown(found))
    return 0


def fetch(config: FuseConfig, store: str | None) -> list[Fetched]:
    """Bring every model of `config` that is on the hub to this node, and into `store` when one is given.

    What a model is, is looked at before its weights come. Raises ConfigError that lists all problems.
    """
    on_hub = [(place, files) for place, files in model_sections(config) if is_on_hub(files.path)]
    problems = [problem for place, files in on_hub for problem in _checked(place, files)]
    if problems:
        raise ConfigError.of("models cannot be fetched", problems)
    return [_fetch(place, files, store) for place, files in on_hub]


def _checked(place: str, files: ModelFiles) -> Iterator[Problem]:
    facts = locate_model(place, files)
    if isinstance(facts, Problem):
        yield facts
        return
    yield from check_weights(place, facts)
    yield from check_remote_code(place, files, facts)
    yield from check_trust(place, files, facts)


def _fetch(place: str, files: ModelFiles, store: str | None) -> Fetched:
    commit = commit_of(files.path, files.revision)
    folder = hub_folder(files.path, commit, Kind(weights=True, code=files.trust_remote_code))
    _require_same_code(place, files, folder)
    was_there = True
    final = str(folder)
    if store is not None:
        was_there = not put(store, files.path, commit, folder)
        copy = folder_in(store, files.path, commit)
        verify_files(copy, "model")
        note_branch(store, files.path, files.revision, commit)
        final = str(copy / "model")
    sizes = [num_bytes for num_bytes, _ in (read_record(folder) or {"files": {}})["files"].values()]
    return Fetched(place, files.path, files.revision, commit, len(sizes), sum(sizes), final, was_there)


def _require_same_code(place: str, files: ModelFiles, folder: Path) -> None:
    if files.trust_remote_code and (problem := unknown_code(folder, files.code_sha256, place)):
        raise ConfigError.of("models cannot be fetched", [problem])


def shown(found: list[Fetched]) -> str:
    """Return what was fetched as text, with the revisions that would pin it for good."""
    if not found:
        return "no model of this config is on the hub: nothing to fetch"
    lines = [f"{each.place}: {each.hub} at {each.commit}\n    {_size(each)} in {each.folder}" for each in found]
    loose = [each for each in found if not is_commit(each.revision)]
    if loose:
        lines += ["", "to run with these commits for good, write into the config:"]
        lines += [f"    {each.place}.revision: {each.commit}" for each in loose]
    return "\n".join([*lines, "", "all files have the hashes that the hub lists; HF_HUB_OFFLINE=1 runs without it"])


def _size(each: Fetched) -> str:
    return f"{each.num_files} files, {each.num_bytes:,} bytes"
