"""A place in a store, used like a path: locate("s3://bucket/runs") / "demo" / "manifest.json"."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wrpo_ray.errors import StorageError
from wrpo_ray.storage.stores import LocalStore, Stat, Store, Stored


@dataclass(frozen=True)
class Location:
    """One key of one store, or all keys below it. `str` gives what `locate` parses; it travels to workers as it is."""

    store: Store
    key: str

    def __truediv__(self, name: str) -> Location:
        """Return what is called `name` below this; raises StorageError for a name that leads elsewhere."""
        if not is_path_below(name):
            raise StorageError(f"{name!a} is no name of a file below a run's folder", code="WRPO-S060")
        return Location(self.store, f"{self.key}/{name}" if self.key else name)

    def __str__(self) -> str:
        return self.store.uri(self.key)

    @property
    def name(self) -> str:
        return self.key.rsplit("/", 1)[-1]

    @property
    def local_path(self) -> Path | None:
        """The path on this machine, or None when this is no file system."""
        return Path(self.key) if isinstance(self.store, LocalStore) else None

    def relative_to(self, folder: Location) -> str:
        """Return the path of this below `folder`, with slashes."""
        if not self.key.startswith(f"{folder.key}/"):
            raise ValueError(f"{self} is not below {folder}")
        return self.key[len(folder.key) + 1 :]

    def read_bytes(self) -> bytes:
        """See Store.read."""
        return self.store.read(self.key)

    def read_json(self) -> Any:
        """Return the parsed JSON; raises FileNotFoundError, and StorageError when it cannot be parsed."""
        content = self.read_bytes()
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as error:
            raise StorageError(
                f"{self} is not the JSON that was written: {error}", code="WRPO-S010", help="wrpo-ray inspect RUN"
            ) from error

    def write_bytes(self, content: bytes) -> None:
        """See Store.write."""
        self.store.write(self.key, content)

    def write_json(self, value: Any) -> None:
        """Write `value` as indented JSON, whole or not at all, in place of an older one."""
        self.write_bytes(json_bytes(value))

    def create_json(self, value: Any) -> bool:
        """Write `value` as indented JSON unless something is there; see Store.create."""
        return self.store.create(self.key, json_bytes(value))

    def create_sealed(self, record: Mapping[str, Any]) -> bool:
        """Write a record with a hash of itself, unless something is there; see Store.create."""
        return self.create_json({**record, "sha256": _seal(record)})

    def write_sealed(self, record: Mapping[str, Any]) -> None:
        """Write a record with a hash of itself, whole or not at all, in place of an older one."""
        self.write_json({**record, "sha256": _seal(record)})

    def read_sealed(self) -> dict[str, Any]:
        """Return a record that was written with its hash.

        Raises as read_json does, and StorageError when anything was changed.
        """
        raw = self.read_json()
        record = {name: value for name, value in raw.items() if name != "sha256"} if isinstance(raw, dict) else {}
        if not isinstance(raw, dict) or not _is_seal(raw.get("sha256"), record):
            raise StorageError(
                f"{self} was changed after it was written: its own hash does not fit", code="WRPO-S023",
                help="wrpo-ray inspect RUN --repair removes it, so that it is made again",
            )  # fmt: skip
        return record

    def stat(self) -> Stat | None:
        """See Store.stat."""
        return self.store.stat(self.key)

    def exists(self) -> bool:
        """Tell whether an object has this very key."""
        return self.stat() is not None

    def walk(self) -> list[Location]:
        """Return everything below this, at any depth, sorted."""
        return [Location(self.store, key) for key in self.store.list(self.key)]

    def delete(self) -> None:
        """See Store.delete."""
        self.store.delete(self.key)

    def delete_folder(self) -> None:
        """See Store.delete_folder."""
        self.store.delete_folder(self.key)

    def upload(self, source: Path) -> Stored:
        """See Store.upload."""
        return self.store.upload(source, self.key)

    def download(self, destination: Path) -> None:
        """See Store.download."""
        self.store.download(self.key, destination)

    def now(self) -> float:
        """See Store.now; this is the folder of the probe."""
        return self.store.now(self.key)


def is_path_below(path: str) -> bool:
    """Tell whether a path, put behind a folder, names something below it on any store, and in one way only.

    Names come from records too (manifests, commits), which somebody else may have written.
    """
    parts = path.split("/")
    return "\0" not in path and all(parts) and {".", ".."}.isdisjoint(parts)


def json_bytes(value: Any) -> bytes:
    """Return `value` as indented JSON in UTF-8; NaN is refused."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8")


def _seal(record: Mapping[str, Any]) -> str:
    text = json.dumps(record, sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _is_seal(digest: Any, record: Mapping[str, Any]) -> bool:
    try:
        return digest == _seal(record)
    except ValueError:
        # NaN and Infinity are no JSON, though Python reads them; no record was written with them.
        return False


def locate(text: str | Path) -> Location:
    """Return the location that a path or a URI (s3://bucket/key, gs://bucket/key) names."""
    if str(text).startswith(("s3://", "gs://")):
        from wrpo_ray.storage.objects import object_store

        scheme, _, rest = str(text).partition("://")
        bucket, _, key = rest.partition("/")
        return Location(object_store(f"{scheme}://{bucket}"), key.strip("/"))
    return Location(LocalStore(), str(Path(text).absolute()))
