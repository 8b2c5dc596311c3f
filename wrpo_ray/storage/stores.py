"""What the ledger asks of a place that keeps files, and the one that is a file system.

A store knows keys and bytes, nothing of steps or rows. `create` is the only call that decides anything between two
writers: of all that create one key, exactly one is told True.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from wrpo_ray.errors import StorageError

_TEMPORARY_SUFFIX = ".tmp"


@dataclass(frozen=True)
class Stat:
    """Size of an object in bytes, and when it was last written by the clock of the store, in seconds since 1970."""

    num_bytes: int
    modified: float


@dataclass(frozen=True)
class Stored:
    """Size and SHA-256 of a file as it was stored."""

    num_bytes: int
    sha256: str


class Store(Protocol):
    """Keeps objects under keys; every object is there whole or not at all.

    All methods raise StorageError when the store cannot be used, once their retries are spent. A call that raised may
    have been carried out all the same. Stores can be pickled: they travel to Ray workers.
    """

    def uri(self, key: str) -> str:
        """Return the name of `key` that a user can read and `locate` can parse."""
        ...

    def read(self, key: str) -> bytes:
        """Return the object; raises FileNotFoundError when there is none."""
        ...

    def write(self, key: str, content: bytes) -> None:
        """Write the object, in place of an older one if there is one."""
        ...

    def create(self, key: str, content: bytes) -> bool:
        """Write the object unless the key is taken; tell whether `content` is what lies there by this call.

        After a lost reply the object is read back: when it equals `content` the answer is True, so content that must
        have one writer (a lease) has to name its writer.
        """
        ...

    def stat(self, key: str) -> Stat | None:
        """Return size and time of the object, or None when there is none."""
        ...

    def list(self, prefix: str) -> list[str]:
        """Return all keys below `prefix` (a folder, without trailing slash), at any depth, sorted."""
        ...

    def delete(self, key: str) -> None:
        """Remove the object; nothing happens when there is none."""
        ...

    def delete_folder(self, prefix: str) -> None:
        """Remove everything below `prefix`; nothing happens when there is nothing."""
        ...

    def now(self, folder: str) -> float:
        """Return the time by the clock that `stat` tells times by; may write a probe below `folder` and remove it."""
        ...

    def upload(self, source: Path, key: str) -> Stored:
        """Store a local file of any size and return what was stored."""
        ...

    def download(self, key: str, destination: Path) -> None:
        """Copy the object to a local file, whole or not at all; raises FileNotFoundError when there is none."""
        ...


class LocalStore:
    """A file system that all nodes share, or this machine's; keys are absolute paths. Satisfies Store.

    A file gets its name only once its bytes are on disk: temporary name, fsync, then link or rename.
    """

    def uri(self, key: str) -> str:
        """See Store."""
        return key

    def read(self, key: str) -> bytes:
        """See Store."""
        with _storage_errors("read", key):
            return Path(key).read_bytes()

    def write(self, key: str, content: bytes) -> None:
        """See Store."""
        with _storage_errors("write", key), _temporary(Path(key)) as temporary:
            _write_durably(temporary, content)
            temporary.replace(key)
            _sync_folder(Path(key).parent)

    def create(self, key: str, content: bytes) -> bool:
        """See Store."""
        with _storage_errors("create", key), _temporary(Path(key)) as temporary:
            _write_durably(temporary, content)
            try:
                os.link(temporary, key)
            except FileExistsError:
                return Path(key).read_bytes() == content
            _sync_folder(Path(key).parent)
            return True

    def stat(self, key: str) -> Stat | None:
        """See Store."""
        with _storage_errors("look at", key):
            try:
                found = Path(key).stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
        return Stat(found.st_size, found.st_mtime)

    def list(self, prefix: str) -> list[str]:
        """See Store."""
        with _storage_errors("list", prefix):
            paths = [Path(folder) / name for folder, _, names in os.walk(prefix) for name in names]
        return sorted(str(path) for path in paths if not is_temporary(path))

    def delete(self, key: str) -> None:
        """See Store."""
        with _storage_errors("delete", key):
            Path(key).unlink(missing_ok=True)

    def delete_folder(self, prefix: str) -> None:
        """See Store."""
        with _storage_errors("delete", prefix):
            shutil.rmtree(prefix, ignore_errors=not Path(prefix).exists())

    def now(self, folder: str) -> float:
        """See Store. A file system tells times by this machine's clock or by its server's: a new file shows which."""
        with _storage_errors("write", folder), _temporary(Path(folder) / "clock") as temporary:
            temporary.touch()
            return temporary.stat().st_mtime

    def upload(self, source: Path, key: str) -> Stored:
        """See Store. A file on the same file system is linked, not copied."""
        with _storage_errors("write", key), _temporary(Path(key)) as temporary:
            try:
                os.link(source, temporary)
            except OSError:
                shutil.copyfile(source, temporary)
            digest = _sync_and_hash(temporary)
            temporary.replace(key)
            _sync_folder(Path(key).parent)
        return digest

    def download(self, key: str, destination: Path) -> None:
        """See Store."""
        with _storage_errors("read", key), _temporary(destination) as temporary:
            shutil.copyfile(key, temporary)
            temporary.replace(destination)


def _write_durably(path: Path, content: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _sync_and_hash(path: Path) -> Stored:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return Stored(path.stat().st_size, digest)


def _sync_folder(folder: Path) -> None:
    """A new name is on disk once its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _temporary(final: Path) -> Iterator[Path]:
    """Give a name beside `final` that no reader takes for a file of the run; whatever is left there is removed."""
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".{final.name}.{uuid.uuid4().hex}{_TEMPORARY_SUFFIX}")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def is_temporary(path: Path) -> bool:
    """Tell whether a file is one that a writer has not finished, or never will."""
    return path.name.startswith(".") and path.name.endswith(_TEMPORARY_SUFFIX)


@contextmanager
def _storage_errors(verb: str, key: str) -> Iterator[None]:
    """Turn what the operating system says into an error that names the file and, when it is full, the space left."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        space = f"; {_free_space(Path(key))}" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise StorageError(f"cannot {verb} {key}: {error.strerror or error}{space}", code="WRPO-S001") from error


def _free_space(path: Path) -> str:
    folder = next((parent for parent in path.parents if parent.exists()), Path("/"))
    return f"{shutil.disk_usage(folder).free:,} bytes are free there"
