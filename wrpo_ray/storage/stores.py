"""What the ledger asks of a place that keeps files, and the one that is a file system.

A store knows keys and bytes, nothing of steps or rows. `create` is the only call that decides anything between two
writers: of all that create one key, exactly one is told True.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Protocol

from wrpo_ray.errors import StorageError

_TEMPORARY_SUFFIX = ".tmp"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
_ABSENT = (FileNotFoundError, NotADirectoryError)


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
        """Store a local file of any size and return what was stored.

        The store may keep the file itself, so the caller does not write to `source` afterwards; deleting it is fine.
        """
        ...

    def download(self, key: str, destination: Path) -> None:
        """Copy the object to a local file, whole or not at all; raises FileNotFoundError when there is none."""
        ...


@dataclass(frozen=True)
class LocalStore:
    """A file system that all nodes share, or this machine's; keys are absolute paths. Satisfies Store.

    A file gets its name only once its bytes are on disk: temporary name, fsync, then link or rename.
    """

    def uri(self, key: str) -> str:
        """See Store."""
        return key

    def read(self, key: str) -> bytes:
        """See Store."""
        with local_errors("read", key):
            try:
                return Path(key).read_bytes()
            except NotADirectoryError as error:
                raise FileNotFoundError(f"{key} does not exist") from error

    def write(self, key: str, content: bytes) -> None:
        """See Store."""
        with local_errors("write", key, len(content)), temporary_file(Path(key)) as temporary:
            _write_durably(temporary, content)
            temporary.replace(key)
            _sync_folder(Path(key).parent)

    def create(self, key: str, content: bytes) -> bool:
        """See Store."""
        with local_errors("create", key, len(content)), temporary_file(Path(key)) as temporary:
            _write_durably(temporary, content)
            try:
                os.link(temporary, key)
            except FileExistsError:
                # A network file system may say so of our own link when its first answer was lost.
                return Path(key).read_bytes() == content
            except OSError as error:
                raise _no_links(key, error) if error.errno in _NO_LINKS else error from error
            _sync_folder(Path(key).parent)
            return True

    def stat(self, key: str) -> Stat | None:
        """See Store."""
        with local_errors("look at", key):
            try:
                found = Path(key).stat()
            except _ABSENT:
                return None
        return Stat(found.st_size, found.st_mtime)

    def list(self, prefix: str) -> list[str]:
        """See Store."""
        return [path for path in self.list_all(prefix) if not is_temporary(path)]

    def list_all(self, prefix: str) -> list[str]:
        """Return the keys below `prefix` as `list` does, those of unfinished writes among them."""
        with local_errors("list", prefix):
            found = os.walk(prefix, onerror=_raise_unless_absent)
            return sorted(str(Path(folder) / name) for folder, _, names in found for name in names)

    def delete(self, key: str) -> None:
        """See Store."""
        with local_errors("delete", key), contextlib.suppress(*_ABSENT):
            Path(key).unlink()

    def delete_folder(self, prefix: str) -> None:
        """See Store."""
        with local_errors("delete", prefix):
            shutil.rmtree(prefix, onerror=lambda _call, _path, raised: _raise_unless_absent(raised[1]))

    def now(self, folder: str) -> float:
        """See Store. A file system tells times by this machine's clock or by its server's: a new file shows which."""
        with local_errors("write", folder), temporary_file(Path(folder) / "clock") as temporary:
            temporary.touch()
            return temporary.stat().st_mtime

    def upload(self, source: Path, key: str) -> Stored:
        """See Store. A file on the same file system is linked, not copied."""
        with local_errors("read", source):
            # Names in a model cache are often links to elsewhere: what they lead to is wanted.
            real, num_bytes = source.resolve(strict=True), source.stat().st_size
        with local_errors("write", key, num_bytes), temporary_file(Path(key)) as temporary:
            try:
                os.link(real, temporary)
            except OSError:
                shutil.copyfile(real, temporary)
            digest = _sync_and_hash(temporary)
            temporary.replace(key)
            _sync_folder(Path(key).parent)
        return digest

    def download(self, key: str, destination: Path) -> None:
        """See Store."""
        found = self.stat(key)
        if found is None:
            raise FileNotFoundError(f"{key} does not exist")
        with local_errors("write", destination, found.num_bytes), temporary_file(destination) as temporary:
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


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it, each on disk before something is put into it."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for place in missing:
        _sync_folder(place.parent)


def temporary_name(name: str) -> str:
    """Return a fresh name for a file that will be called `name`; see is_temporary."""
    return f".{name}.{uuid.uuid4().hex}{_TEMPORARY_SUFFIX}"


@contextmanager
def temporary_file(final: Path) -> Iterator[Path]:
    """Give a name beside `final` that no reader takes for a file of the run; whatever is left there is removed."""
    _make_folder(final.parent)
    temporary = final.with_name(temporary_name(final.name))
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def is_temporary(path: str | PurePath) -> bool:
    """Tell whether a file is one that a writer has not finished, or never will."""
    name = PurePath(path).name
    return name.startswith(".") and name.endswith(_TEMPORARY_SUFFIX)


def _raise_unless_absent(error: BaseException) -> None:
    """What went away while it was looked at is gone, as if it had gone before; anything else is no empty folder."""
    if not isinstance(error, _ABSENT):
        raise error


@contextmanager
def local_errors(verb: str, place: str | Path, num_bytes: int | None = None) -> Iterator[None]:
    """Turn what the operating system says into StorageError: the file, and when it is full, the space left there.

    num_bytes: what is to be written. FileNotFoundError passes when something is read.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, FileNotFoundError) and verb == "read":
            raise
        if error.errno in _FULL:
            raise no_space(verb, place, num_bytes) from error
        raise StorageError(f"cannot {verb} {place}: {error.strerror or error}", code="WRPO-S001") from error


def no_space(verb: str, place: str | Path, num_bytes: int | None) -> StorageError:
    """Return the error of a full disk, with the bytes that are needed and those that are free."""
    needed = "" if num_bytes is None else f"{num_bytes:,} bytes are needed, "
    return StorageError(
        f"cannot {verb} {place}: no space left on device; {needed}{free_bytes(Path(place)):,} bytes are free there",
        code="WRPO-S002",
        help="free some space, or move `run.root`, and run the same command again: nothing half-written is used",
    )


def free_bytes(path: Path) -> int:
    """Return the bytes that are free where `path` is or will be."""
    folder = next((place for place in (path, *path.parents) if place.is_dir()), Path("/"))
    return shutil.disk_usage(folder).free


def _no_links(key: str, error: OSError) -> StorageError:
    return StorageError(
        f"cannot create {key}: the file system has no hard links ({error.strerror}), so two writers could both win",
        code="WRPO-S007",
        help="put `run.root` on a local disk, NFS, Lustre or an object store",
    )
