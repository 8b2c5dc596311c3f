"""Checkpoints of unfinished training, which training itself skips when they are damaged, for the one before."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

from wrpo_ray.run_inspect.files import changed_bytes, measure
from wrpo_ray.run_inspect.findings import Finding
from wrpo_ray.run_state import Contents
from wrpo_ray.storage.location import Location
from wrpo_ray.storage.manifest import FileEntry

_CHECKPOINT = "/checkpoint.json"
_CHANGED, _MISSING = "WRPO-S017", "WRPO-S016"


def checkpoint_findings(contents: Contents) -> Iterator[Finding]:
    """Check the checkpoints of unfinished training; training itself skips a damaged one for the one before it."""
    for name in sorted(contents.names):
        if not (name.startswith("scratch/") and name.endswith(_CHECKPOINT)):
            continue
        marker, folder = contents.folder / name, contents.folder / name.removesuffix(_CHECKPOINT)
        step = f"optimizer steps up to {folder.name}"
        try:
            files = _checkpoint_files(marker)
        except (ValueError, KeyError, TypeError) as error:
            yield Finding(
                "checkpoint", str(marker), f"not the record that was written: {error}", _CHANGED, affected=step
            )
            continue
        for entry in files:
            found = measure(folder / entry.path, parquet=False)
            if found is None:
                yield Finding("checkpoint", str(folder / entry.path), "missing", _MISSING, entry.sha256, affected=step)
            elif not found.is_entry(entry):
                yield Finding(
                    "checkpoint",
                    str(folder / entry.path),
                    changed_bytes(found, entry),
                    _CHANGED,
                    entry.sha256,
                    found.sha256,
                    affected=step,
                )


def _checkpoint_files(marker: Location) -> list[FileEntry]:
    """Return the files that a checkpoint's marker lists; raises ValueError when its own hash does not fit."""
    raw = json.loads(marker.read_bytes())
    record = {name: value for name, value in raw.items() if name != "sha256"}
    text = json.dumps(record, sort_keys=True, ensure_ascii=True)
    if hashlib.sha256(text.encode("ascii")).hexdigest() != raw["sha256"]:
        raise ValueError("its own hash is another one")
    return [FileEntry(**entry) for entry in raw["files"]]
