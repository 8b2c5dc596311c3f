"""Files between a node and the run's store: folders on the node, uploads of finished folders, model folders."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path

from wrpo_ray.storage.location import Location
from wrpo_ray.storage.manifest import FileEntry


def node_root(out: str) -> Path:
    """Return the folder on this node for working files of the step that writes to `out`; it may not exist yet."""
    name = hashlib.sha256(out.encode("utf-8")).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"wrpo-train-{name}"


def working_folder(scratch: Location, out: str, attempt: str) -> Path:
    """Return where an attempt writes what it will upload: on the store's own file system, or on this node's."""
    if scratch.local_path is not None:
        # Beside its destination an upload is a link and no copy.
        return scratch.local_path / "writing" / attempt
    return node_root(out) / attempt


def remove_other_attempts(folder: Path) -> None:
    """Remove what attempts that are dead left beside the working folder of this one."""
    if folder.parent.is_dir():
        for other in folder.parent.iterdir():
            if other != folder:
                shutil.rmtree(other, ignore_errors=True)


def upload_folder(source: Path, destination: Location, prefix: str = "") -> list[FileEntry]:
    """Store all files below `source` as `destination`/`prefix`...; return their entries, relative to `destination`."""
    entries = []
    for path in sorted(place for place in source.rglob("*") if place.is_file()):
        name = prefix + path.relative_to(source).as_posix()
        stored = (destination / name).upload(path)
        entries.append(FileEntry(name, stored.num_bytes, stored.sha256, None))
    return entries


def replace_folder(source: Path, folder: Location, name: str) -> list[FileEntry]:
    """Store all files below `source` as `folder`/`name`/..., and nothing else there; entries relative to `folder`."""
    entries = upload_folder(source, folder, f"{name}/")
    kept = {entry.path for entry in entries}
    for place in (folder / name).walk():
        if place.relative_to(folder) not in kept:
            place.delete()
    return entries
