"""Folders of an object store, copied to this node once, however many processes ask for them at the same time.

<cache>/<name>-<hash of URI and contents>/        there exactly when it is whole
<cache>/<name>-<hash>.<random>.tmp/               a download that goes on, or one that was killed
<cache>/<name>-<hash>.lock                        held by the process that downloads

Anything here may be removed while nobody runs. WRPO_RAY_CACHE names the cache; ~/.cache/wrpo_ray is the default.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from wrpo_ray.errors import StorageError
from wrpo_ray.storage.location import Location
from wrpo_ray.storage.manifest import MANIFEST, Manifest, read_manifest
from wrpo_ray.storage.stores import free_bytes, local_errors, no_space

log = logging.getLogger(__name__)

CACHE_VARIABLE = "WRPO_RAY_CACHE"


@dataclass(frozen=True)
class _File:
    """One file of a folder: where it lies below it, its size, and its SHA-256 (or its time, where no hash is known)."""

    path: str
    num_bytes: int
    sha256: str | None
    modified: float | None


def cache_root() -> Path:
    """Return the folder on this node that holds copies of what lies in object stores."""
    return Path(os.environ.get(CACHE_VARIABLE) or "~/.cache/wrpo_ray").expanduser().absolute()


def cached_folder(folder: Location, wanted: Callable[[str], bool] = lambda _: True) -> Path:
    """Return a local copy of the files of `folder` whose path below it is `wanted`.

    When a finished step's manifest lies beside the folder it says which files there are, and each is verified.
    Raises FileNotFoundError when there are none, StorageError when one is another than the manifest names.
    """
    files = [entry for entry in _files(folder) if wanted(entry.path)]
    if not files:
        raise FileNotFoundError(f"{folder} holds no files")
    final = cache_root() / f"{folder.name}-{_digest(folder, files)}"
    if _is_whole(final, files):
        return final
    with local_errors("write", final):
        final.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(final.with_name(f"{final.name}.lock")):
        if not _is_whole(final, files):
            _download(folder, files, final)
    return final


def _files(folder: Location) -> list[_File]:
    manifest = _manifest_beside(folder)
    prefix = f"{folder.name}/"
    if manifest is not None:
        listed = [entry for entry in manifest.files if entry.path.startswith(prefix)]
        return [_File(entry.path.removeprefix(prefix), entry.num_bytes, entry.sha256, None) for entry in listed]
    found = [(place.relative_to(folder), place.stat()) for place in folder.walk()]
    return [_File(path, stat.num_bytes, None, stat.modified) for path, stat in found if stat is not None]


def _manifest_beside(folder: Location) -> Manifest | None:
    parent, _, _ = folder.key.rpartition("/")
    if not parent:
        return None
    step = Location(folder.store, parent)
    try:
        raw = (step / MANIFEST).read_json()
    except FileNotFoundError:
        return None
    # A model of the user's own may lie beside a manifest.json of another kind; one of ours must be intact.
    return read_manifest(step) if isinstance(raw, dict) and {"step", "fingerprint", "files"} <= raw.keys() else None


def _digest(folder: Location, files: Sequence[_File]) -> str:
    parts = [str(folder), sorted([file.path, file.num_bytes, file.sha256, file.modified] for file in files)]
    return hashlib.sha256(json.dumps(parts).encode("utf-8")).hexdigest()[:16]


def _is_whole(copy: Path, files: Sequence[_File]) -> bool:
    """The name alone says so, unless somebody cleaned up inside or the node lost power."""
    return copy.is_dir() and all(_size(copy / file.path) == file.num_bytes for file in files)


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _download(folder: Location, files: Sequence[_File], final: Path) -> None:
    """Fill a fresh folder and give it its name; the lock is held, so other unfinished ones are of dead processes."""
    for dead in [*final.parent.glob(f"{final.name}.*.tmp"), final]:
        shutil.rmtree(dead, ignore_errors=True)
    num_bytes = sum(file.num_bytes for file in files)
    if free_bytes(final) < num_bytes:
        raise no_space("download to", final, num_bytes)
    log.info("downloading %s (%d files, %s bytes) to %s", folder, len(files), f"{num_bytes:,}", final)
    began = time.monotonic()
    partial = final.with_name(f"{final.name}.{uuid.uuid4().hex}.tmp")
    try:
        for file in files:
            _download_file(folder, file, partial)
        with local_errors("write", final):
            partial.rename(final)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    log.info("downloaded %s in %.1f s", folder, time.monotonic() - began)


def _download_file(folder: Location, file: _File, partial: Path) -> None:
    destination = partial / file.path
    try:
        (folder / file.path).download(destination)
    except FileNotFoundError as error:
        raise StorageError(f"{folder / file.path} is missing, its manifest lists it", code="WRPO-S016") from error
    found = _size(destination)
    if found != file.num_bytes or (file.sha256 is not None and _sha256(destination) != file.sha256):
        raise StorageError(
            f"{folder / file.path} is not the file that was written: {found} bytes came, {file.num_bytes} are listed,"
            f" sha256 {_sha256(destination)} instead of {file.sha256}",
            code="WRPO-S017",
            help="wrpo-ray inspect RUN --repair removes what does not verify, so that the next run makes it again",
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
