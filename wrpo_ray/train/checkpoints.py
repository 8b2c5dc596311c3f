"""Checkpoints of a training run as folders that say themselves what they hold, and whether they are whole.

<root>/step-00000150-<attempt>/...               DeepSpeed's files, random state of every rank, metrics so far
<root>/step-00000150-<attempt>/checkpoint.json   written last and once: step, state, every file with size and SHA-256

A checkpoint is never changed and no index lists them: the folders are the truth, ordered by step and never by time.
One that does not verify is skipped, removed, and the one before it is used.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wrpo_ray.errors import StorageError
from wrpo_ray.storage.location import Location
from wrpo_ray.storage.manifest import FileEntry
from wrpo_ray.train.ranks import Ranks

MARKER = "checkpoint.json"
_NAME = re.compile(r"step-(\d{8,})-[0-9a-z]+")
# No JSON, or not the JSON that was written; any other error of the store says nothing about the checkpoint.
_DAMAGED = ("WRPO-S010", "WRPO-S023")


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint: optimizer steps that are done, its files, and what the trainer must know of it."""

    folder: Location
    step: int
    files: tuple[FileEntry, ...]
    state: Mapping[str, Any]


@dataclass(frozen=True)
class Skipped:
    """A checkpoint that cannot be used, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Opened:
    """The newest checkpoint that verified, with its files on this node; and the newer ones that did not verify."""

    checkpoint: Checkpoint | None
    path: Path | None
    skipped: tuple[Skipped, ...]


class DamagedError(ValueError):
    """A checkpoint is not what was written; the text is the reason."""


def checkpoint_name(step: int, attempt: str) -> str:
    """Return the folder name of a checkpoint; `attempt` names the worker group, so that no two write to one folder."""
    return f"step-{step:08d}-{attempt}"


def commit_checkpoint(folder: Location, step: int, files: Sequence[FileEntry], state: Mapping[str, Any]) -> None:
    """Mark the checkpoint as complete, once all of its files are stored."""
    record = {
        "step": step,
        "state": dict(state),
        "files": [dataclasses.asdict(entry) for entry in sorted(files, key=lambda entry: entry.path)],
    }
    if not (folder / MARKER).create_sealed(record):
        raise StorageError(f"{folder / MARKER} is there already", code="WRPO-S021")


def read_checkpoint(folder: Location) -> Checkpoint:
    """Return the checkpoint in `folder`; raises DamagedError when its marker is missing, cut or changed."""
    try:
        raw = (folder / MARKER).read_sealed()
        return Checkpoint(folder, raw["step"], tuple(FileEntry(**entry) for entry in raw["files"]), raw["state"])
    except FileNotFoundError as error:
        raise DamagedError(f"{MARKER} is missing") from error
    except StorageError as error:
        if error.code not in _DAMAGED:
            raise
        raise DamagedError(f"{MARKER} was cut or changed after it was written") from error
    except (KeyError, TypeError) as error:
        raise DamagedError(f"{MARKER} is none of this version: {error}") from error


def checkpoint_names(root: Location) -> dict[str, bool]:
    """Return the names of all checkpoint folders below `root`, newest step first, and whether each has its marker."""
    found: dict[str, bool] = {}
    for place in root.walk():
        name, _, rest = place.relative_to(root).partition("/")
        if _NAME.fullmatch(name):
            found[name] = found.get(name, False) or rest == MARKER
    return dict(sorted(found.items(), key=lambda item: (-step_of(item[0]), item[0])))


def step_of(name: str) -> int:
    """Return the step of a checkpoint's folder name."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"{name} names no checkpoint")
    return int(match[1])


def open_newest(root: Location, ranks: Ranks, node_folder: Path) -> Opened:
    """Return the newest checkpoint whose every file verifies; all ranks call it and share the hashing.

    node_folder: where files from an object store are put, once per node. Damaged checkpoints are removed once an
    older one has been chosen or none is left; raises StorageError when the store cannot be read.
    """
    names = ranks.first([name for name, complete in checkpoint_names(root).items() if complete])
    skipped: list[Skipped] = []
    opened: Opened | None = None
    for name in names:
        checkpoint, reason = ranks.first(_read(root / name) if ranks.rank == 0 else (None, ""))
        path = _place(root / name, node_folder)
        if checkpoint is not None:
            problems = [text for part in ranks.gathered(_problems(checkpoint, path, ranks)) for text in part]
            if not problems:
                opened = Opened(checkpoint, path, tuple(skipped))
                break
            reason = "; ".join(problems)
        skipped.append(Skipped(name, reason))
    if ranks.rank == 0:
        for damaged in skipped:
            (root / damaged.name).delete_folder()
    return opened or Opened(None, None, tuple(skipped))


def _read(folder: Location) -> tuple[Checkpoint | None, str]:
    try:
        return read_checkpoint(folder), ""
    except DamagedError as error:
        return None, str(error)


def _place(folder: Location, node_folder: Path) -> Path:
    return folder.local_path or node_folder / folder.name


def _problems(checkpoint: Checkpoint, path: Path, ranks: Ranks) -> list[str]:
    """Return what is wrong with this rank's share of the files, fetching them first when they lie elsewhere."""
    if checkpoint.folder.local_path is not None:
        share = checkpoint.files[ranks.rank :: ranks.size]
    else:
        share = checkpoint.files[ranks.local_rank :: ranks.local_size]
        for entry in share:
            _fetch(checkpoint.folder / entry.path, path / entry.path)
    return [problem for entry in share if (problem := _problem(path / entry.path, entry))]


def _fetch(source: Location, destination: Path) -> None:
    destination.parent.mkdir(parents=True, exist_ok=True)
    try:
        source.download(destination)
    except FileNotFoundError:
        destination.unlink(missing_ok=True)


def _problem(path: Path, entry: FileEntry) -> str | None:
    try:
        num_bytes = path.stat().st_size
        if num_bytes != entry.num_bytes:
            return f"{entry.path} has {num_bytes} bytes instead of {entry.num_bytes}"
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except (FileNotFoundError, NotADirectoryError):
        return f"{entry.path} is missing"
    except OSError as error:
        # A disk that fails says nothing about the files on it: no reason to give up steps that may be there.
        folder = path.parents[entry.path.count("/")]
        raise StorageError(
            f"cannot read {path}: {error.strerror or error}", code="WRPO-S022",
            help=f"repair the disk, or remove {folder} to go on from the checkpoint before it",
        ) from error  # fmt: skip
    return None if digest == entry.sha256 else f"{entry.path} was changed after it was written"


def remove_incomplete(root: Location) -> list[str]:
    """Remove checkpoints that a dead attempt did not finish; return their names."""
    names = [name for name, complete in checkpoint_names(root).items() if not complete]
    for name in names:
        (root / name).delete_folder()
    return names


def prune(root: Location, keep: int) -> list[str]:
    """Remove all complete checkpoints but the newest `keep`; return the names of those removed."""
    complete = [name for name, is_complete in checkpoint_names(root).items() if is_complete]
    for name in complete[keep:]:
        # Without its marker it is none any more, wherever the removal of the rest may stop.
        (root / name / MARKER).delete()
        (root / name).delete_folder()
    return complete[keep:]
