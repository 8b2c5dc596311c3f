"""What a finished step made: a manifest that is written last and once, and by which everybody reads.

<root>/<run>/<step>/<fingerprint>/...               everything that one step wrote
<root>/<run>/<step>/<fingerprint>/manifest.json     it exists exactly when the step is complete
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import with_config

from wrpo_ray.errors import StorageError
from wrpo_ray.storage.location import Location, locate
from wrpo_ray.storage.typed_records import require_path_below, typed_record

MANIFEST = "manifest.json"


@with_config(extra="forbid")
@dataclass(frozen=True)
class FileEntry:
    """One file of a step: path below the step's folder, size in bytes, SHA-256, and rows when it is Parquet.

    key_range: smallest and largest prompt_id in it, so that a join by prompt_id opens it only where it can match; None
    when that is not known (no rows, tables without the column, files of older versions).
    """

    path: str
    num_bytes: int
    sha256: str
    num_rows: int | None
    key_range: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        require_path_below(self.path)
        # JSON has no tuples; what is read back must equal what was written.
        if self.key_range is not None:
            object.__setattr__(self, "key_range", tuple(self.key_range))

    def may_hold(self, key_range: tuple[str, str] | None) -> bool:
        """Tell whether the file can have rows whose prompt_id lies in `key_range`, ends included."""
        if self.num_rows == 0:
            return False
        if self.key_range is None or key_range is None:
            return True
        return self.key_range[0] <= key_range[1] and key_range[0] <= self.key_range[1]


@with_config(extra="forbid")
@dataclass(frozen=True)
class Manifest:
    """What a finished step made, from what, and the counts that it reports.

    input_contents: content_digest of every input as it was when the step read it. result_version: of the code, as the
    fingerprint has it.
    """

    step: str
    fingerprint: str
    identity: Mapping[str, Any]
    inputs: Mapping[str, str]
    files: tuple[FileEntry, ...]
    summary: Mapping[str, Any]
    versions: Mapping[str, str]
    seconds: float
    input_contents: Mapping[str, str] = field(default_factory=dict)
    result_version: int = 0


@dataclass(frozen=True)
class RunLayout:
    """The one place that knows where things of a run lie.

    reused: names of other runs beside this one by "<step>/<fingerprint>" of the finished steps that are read there.
    """

    folder: Location
    reused: Mapping[str, str] = field(default_factory=dict)

    @property
    def leases(self) -> Location:
        """One record per driver that ever held the run, and its heartbeat."""
        return self.folder / "lease"

    @property
    def submissions(self) -> Location:
        """One record per start of the run: resolved config, steps, fingerprints."""
        return self.folder / "submissions"

    @property
    def broken_sources(self) -> Location:
        """One record per source that the run goes on without."""
        return self.folder / "broken_sources"

    def step_folder(self, step: str, fingerprint: str) -> Location:
        """Return where the step's result lies or will lie; what another run has made is read and never written."""
        run = self.run_of(step, fingerprint)
        return (self.folder if run is None else self.beside(run).folder) / step / fingerprint

    def run_of(self, step: str, fingerprint: str) -> str | None:
        """Return the name of the other run that has made the step, or None when it is this run's own."""
        return self.reused.get(f"{step}/{fingerprint}")

    def reusing(self, step: str, fingerprint: str, run: str) -> RunLayout:
        """Return this layout with one more step that is read from the run called `run`."""
        return RunLayout(self.folder, {**self.reused, f"{step}/{fingerprint}": run})

    def beside(self, run: str) -> RunLayout:
        """Return the layout of another run below the same root."""
        root, _, _ = self.folder.key.rpartition("/")
        return RunLayout(Location(self.folder.store, root) / run)


def layout_of(root: str, run: str) -> RunLayout:
    """Return the layout of the run called `run` below `root`, a path or a URI."""
    return RunLayout(locate(root) / run)


def create_manifest(folder: Location, manifest: Manifest) -> Manifest:
    """Mark the step in `folder` as complete and return the manifest that holds: the first one that was written."""
    if (folder / MANIFEST).create_sealed(dataclasses.asdict(manifest)):
        return manifest
    first = read_manifest(folder)
    if first is None:
        raise StorageError(f"{folder / MANIFEST} was removed while it was written", code="WRPO-S011")
    return first


def read_manifest(folder: Location) -> Manifest | None:
    """Return the manifest of a step's folder, or None when the step is not complete.

    Raises StorageError when the manifest is not one.
    """
    try:
        raw = (folder / MANIFEST).read_sealed()
    except FileNotFoundError:
        return None
    return typed_record(Manifest, raw, folder / MANIFEST, "a manifest", "WRPO-S011")


def content_digest(manifest: Manifest) -> str:
    """Return one hash over the bytes that later steps read: not what was set aside, nor what was only measured."""
    read = [entry for entry in manifest.files if not entry.path.startswith(("quarantine/", "metrics.jsonl"))]
    lines = sorted(f"{entry.path} {entry.sha256}" for entry in read)
    return hashlib.sha256("\n".join(lines).encode("utf-8")).hexdigest()


def verify_files(folder: Location, below: str) -> None:
    """Compare the files of a finished step below the folder `below` with its manifest.

    Raises StorageError that names the first one that is missing or was changed. In an object store nothing is read:
    what is fetched from there is compared on the way (models.local_model).
    """
    for entry in require_manifest(folder).files:
        path = (folder / entry.path).local_path
        if path is None or not entry.path.startswith(f"{below}/"):
            continue
        found = file_sha256(path) if path.exists() else "missing"
        if found != entry.sha256:
            raise StorageError(
                f"{path} was changed after it was written: sha256 {found}, manifest {entry.sha256}", code="WRPO-S017",
                help="wrpo-ray inspect RUN --repair removes the step, so that it is made again",
            )  # fmt: skip


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a local file, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def require_manifest(folder: Location) -> Manifest:
    """Return the manifest of a finished step; raises StorageError when the step is not complete."""
    manifest = read_manifest(folder)
    if manifest is None:
        raise StorageError(
            f"{folder} has no {MANIFEST}: the step that writes it is not complete",
            code="WRPO-S012",
            help="run it first",
        )
    return manifest
