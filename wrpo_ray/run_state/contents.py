"""What lies in one step's folder: one listing, its manifest, and its ledger where there is one."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from wrpo_ray.run_state.records import PLAN, Damage, Plan, T, attempt, read_plan
from wrpo_ray.storage.ledger import Commit, read_commit
from wrpo_ray.storage.location import Location
from wrpo_ray.storage.manifest import MANIFEST, Manifest, read_manifest

# An object store answers each small read after tens of milliseconds, so they are asked side by side.
NUM_THREADS = 16
_COMMITS = "commits/"


@dataclass(frozen=True)
class Contents:
    """A step's folder as it was found. `names` are paths below it; `commits` is None when they were not read."""

    folder: Location
    names: frozenset[str]
    manifest: Manifest | None
    plan: Plan | None
    commits: Mapping[str, Commit] | None
    damages: tuple[Damage, ...]

    @property
    def is_ledger(self) -> bool:
        """Tell whether the step's work is cut into shards."""
        return PLAN in self.names or any(name.startswith(_COMMITS) for name in self.names)

    @property
    def commit_names(self) -> list[str]:
        """Names of all shards that have a commit."""
        return shards_with_commit(self.names)


def shards_with_commit(names: Iterable[str]) -> list[str]:
    """Return the shards whose commits are among the paths `names`, sorted."""
    found = (name.removeprefix(_COMMITS) for name in names if name.startswith(_COMMITS) and name.endswith(".json"))
    return sorted(name.removesuffix(".json") for name in found)


def commit_place(folder: Location, shard_name: str) -> Location:
    """Return where the commit of a shard lies."""
    return folder / f"{_COMMITS}{shard_name}.json"


def read_contents(folder: Location, every_commit: bool = False) -> Contents:
    """Read a step's folder; the commits too when the step is not complete, or with `every_commit`.

    Damaged records are returned as such; raises StorageError when the store cannot be read.
    """
    damages: list[Damage] = []
    # The manifest first: a step that ends between two looks would seem to lack its files the other way round.
    manifest = _kept(attempt(folder / MANIFEST, lambda: read_manifest(folder)), damages)
    names = frozenset(place.relative_to(folder) for place in folder.walk())
    plan = _kept(attempt(folder / PLAN, lambda: read_plan(folder)), damages) if PLAN in names else None
    commits = None
    if every_commit or manifest is None:
        commits = _read_commits(folder, shards_with_commit(names), damages)
    listed = {entry.path: "manifest" for entry in manifest.files} if manifest else {}
    listed = {commit.file.path: f"commit of {name}" for name, commit in (commits or {}).items()} | listed
    damages += _missing(folder, listed, names)
    return Contents(folder, names, manifest, plan, commits, tuple(damages))


def _kept(found: T | Damage, damages: list[Damage]) -> T | None:
    if isinstance(found, Damage):
        damages.append(found)
        return None
    return found


def _read_commits(folder: Location, shard_names: list[str], damages: list[Damage]) -> dict[str, Commit]:
    def read(shard_name: str) -> Commit | Damage:
        return attempt(commit_place(folder, shard_name), lambda: read_commit(folder, shard_name))

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        pairs = zip(shard_names, pool.map(read, shard_names), strict=True)
        kept = ((name, _kept(found, damages)) for name, found in pairs)
        return {name: commit for name, commit in kept if commit is not None}


def _missing(folder: Location, listed: Mapping[str, str], names: frozenset[str]) -> list[Damage]:
    """Return the listed files that are not there; asked twice, since a listing of a running step is no one moment."""
    absent = [path for path in listed if path not in names]
    exists = functools.partial(_exists, folder)
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        gone = [path for path, there in zip(absent, pool.map(exists, absent), strict=True) if not there]
    return [Damage(str(folder / path), f"missing, the {listed[path]} lists it", "WRPO-S016") for path in gone]


def _exists(folder: Location, path: str) -> bool:
    return (folder / path).exists()
