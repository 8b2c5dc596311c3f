"""S3 and Google Cloud Storage as a Store.

Everything goes through obstore, large files too: an output stream of pyarrow.fs that is left by an exception completes
its upload with what it got so far, and a cut file would stand under its final name.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import obstore
from obstore import exceptions
from obstore.store import GCSStore, S3Store

from wrpo_ray.errors import StorageError
from wrpo_ray.storage.location import Location
from wrpo_ray.storage.refusals import reason, refusal
from wrpo_ray.storage.retries import RetryPolicy, TransientError, policy_of_environment, retried
from wrpo_ray.storage.stores import Stat, Stored, is_temporary, local_errors, temporary_file, temporary_name

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

_Result = TypeVar("_Result")
_MIB = 2**20
# Up to here one request carries an object. A request must end within its timeout: 16 MiB in 30 s is 0.6 MB/s.
_LARGEST_REQUEST_BYTES = 16 * _MIB
_PART_BYTES = 32 * _MIB
_NUM_AT_ONCE = 8
# S3 takes 10,000 parts: https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
_MAX_PARTS = 9_000
_MIN_UPLOADS = 3
_MAX_REQUEST_S = 3600
_ALLOW_HTTP = ("AWS_ALLOW_HTTP", "GOOGLE_ALLOW_HTTP")
# Answers that stay are not retried; one hiccup may be, and all ends well within five seconds.
_PROBE_POLICY = RetryPolicy(budget_s=1.5, request_timeout_s=1.5, longest_wait_s=0.5)


def object_store(root_uri: str, policy: RetryPolicy | None = None) -> ObjectStore:
    """Return the store of a bucket (s3://bucket or gs://bucket); there is one per process.

    Credentials, region and endpoint come from the usual environment variables (AWS_..., GOOGLE_...).
    """
    return _object_store(root_uri, policy or policy_of_environment())


@functools.cache
def _object_store(root_uri: str, policy: RetryPolicy) -> ObjectStore:
    return ObjectStore(root_uri, policy)


class ObjectStore:
    """One bucket. Satisfies Store; a key is the name of an object, without a leading slash."""

    def __init__(self, root_uri: str, policy: RetryPolicy) -> None:
        self.root_uri, self.policy = root_uri, policy
        self._client = _client(root_uri, policy, _no_retries())
        self._patient_client = _client(root_uri, policy, _part_retries(policy))

    def __reduce__(self) -> tuple[Callable[..., ObjectStore], tuple[str, RetryPolicy]]:
        return _object_store, (self.root_uri, self.policy)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectStore) and other.root_uri == self.root_uri

    def __hash__(self) -> int:
        return hash(self.root_uri)

    def uri(self, key: str) -> str:
        """See Store."""
        return f"{self.root_uri}/{key}" if key else self.root_uri

    def read(self, key: str) -> bytes:
        """See Store."""
        return self._retried("read", key, lambda: bytes(obstore.get(self._client, key).bytes()))

    def read_range(self, key: str, start: int, num_bytes: int) -> bytes:
        """Return a part of the object; raises FileNotFoundError when there is none."""
        if num_bytes == 0:
            return b""
        return self._retried(
            "read", key, lambda: bytes(obstore.get_range(self._client, key, start=start, length=num_bytes))
        )

    def write(self, key: str, content: bytes) -> None:
        """See Store."""
        if len(content) <= _LARGEST_REQUEST_BYTES:
            self._retried("write", key, lambda: obstore.put(self._client, key, content, use_multipart=False))
        else:
            self._put_in_parts(key, content, len(content))

    def create(self, key: str, content: bytes) -> bool:
        """See Store."""
        taken = False

        def call() -> bool:
            nonlocal taken
            if not taken:
                try:
                    obstore.put(self._client, key, content, mode="create", use_multipart=False)
                    return True
                except exceptions.AlreadyExistsError:
                    # 412: somebody was first, or an earlier try of ours whose reply was lost. 409: two at once.
                    taken = True
            try:
                return bytes(obstore.get(self._client, key).bytes()) == content
            except FileNotFoundError as error:
                taken = False
                _raise_if_refused(error, "create", self.uri(key))
                raise TransientError("HTTP 409, another writer was at it") from error

        return self._retried("create", key, call)

    def stat(self, key: str) -> Stat | None:
        """See Store."""
        try:
            found = self._head(key)
        except FileNotFoundError:
            return None
        return Stat(found["size"], found["last_modified"].timestamp())

    def _head(self, key: str) -> Any:
        return self._retried("look at", key, lambda: obstore.head(self._client, key))

    def list(self, prefix: str) -> list[str]:
        """See Store."""
        return [key for key in self.list_all(prefix) if not is_temporary(key)]

    def list_all(self, prefix: str) -> list[str]:
        """Return the keys below `prefix` as `list` does, those of unfinished writes among them."""
        return sorted(self._retried("list", prefix, lambda: self._list(prefix)))

    def _list(self, prefix: str) -> list[str]:
        chunks = obstore.list(self._client, prefix or None, chunk_size=1000)
        return [entry["path"] for chunk in chunks for entry in chunk]

    def delete(self, key: str) -> None:
        """See Store."""
        self._delete([key], key)

    def delete_folder(self, prefix: str) -> None:
        """See Store."""
        if keys := self.list_all(prefix):
            self._delete(keys, prefix)

    def _delete(self, keys: list[str], shown_key: str) -> None:
        def call() -> None:
            try:
                obstore.delete(self._client, keys)
            except FileNotFoundError as error:
                _raise_if_refused(error, "delete", self.uri(shown_key))
                self._delete_one_by_one(keys)

        self._retried("delete", shown_key, call)

    def _delete_one_by_one(self, keys: list[str]) -> None:
        """Google says of a deleted object that it is absent, S3 does not; the others are still to be deleted."""
        for key in keys:
            with contextlib.suppress(FileNotFoundError):
                obstore.delete(self._client, key)

    def now(self, folder: str) -> float:
        """See Store."""
        probe = f"{folder}/{temporary_name('clock')}" if folder else temporary_name("clock")
        self.write(probe, b"")
        try:
            found = self.stat(probe)
        finally:
            self.delete(probe)
        if found is None:
            raise StorageError(f"{self.uri(probe)} was removed while it was used to ask the time", code="WRPO-S008")
        return found.modified

    def upload(self, source: Path, key: str) -> Stored:
        """See Store."""
        with local_errors("read", source), source.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            num_bytes = stream.tell()
        self._put_in_parts(key, source, num_bytes)
        found = self.stat(key)
        if found is None or found.num_bytes != num_bytes:
            size = "missing" if found is None else f"{found.num_bytes} bytes"
            raise StorageError(f"{self.uri(key)} is {size} after {num_bytes} were uploaded", code="WRPO-S008")
        return Stored(num_bytes, digest)

    def _put_in_parts(self, key: str, content: bytes | Path, num_bytes: int) -> None:
        """Parts become an object when the last request says so; the library tries a part again, this the whole."""
        part_bytes = max(_PART_BYTES, -(-num_bytes // _MAX_PARTS))
        self._retried(
            "write", key,
            lambda: obstore.put(
                self._patient_client, key, content, chunk_size=part_bytes, max_concurrency=_NUM_AT_ONCE
            ),
            min_tries=_MIN_UPLOADS,
        )  # fmt: skip

    def download(self, key: str, destination: Path) -> None:
        """See Store. Parts come side by side, each retried for itself; all are of one version of the object."""
        found = self._head(key)
        ranges = [(start, min(start + _PART_BYTES, found["size"])) for start in range(0, found["size"], _PART_BYTES)]
        with local_errors("write", destination, found["size"]), temporary_file(destination) as temporary:
            with temporary.open("wb") as stream, ThreadPoolExecutor(_NUM_AT_ONCE) as pool:
                copy = functools.partial(self._copy_part, key, found["e_tag"], stream.fileno())
                list(pool.map(copy, ranges))
            temporary.replace(destination)

    def _copy_part(self, key: str, e_tag: str | None, descriptor: int, part: tuple[int, int]) -> None:
        options: Any = {"range": part} if e_tag is None else {"range": part, "if_match": e_tag}
        content = self._retried("read", key, lambda: obstore.get(self._client, key, options=options).bytes())
        os.pwrite(descriptor, content, part[0])

    def _retried(self, verb: str, key: str, call: Callable[[], _Result], min_tries: int = 1) -> _Result:
        uri = self.uri(key)
        return retried(verb, uri, lambda: _translated(verb, uri, call), self.policy, min_tries)


def _translated(verb: str, uri: str, call: Callable[[], _Result]) -> _Result:
    """Turn errors of obstore into FileNotFoundError, StorageError (nothing helps) or TransientError (it may pass)."""
    try:
        return call()
    except FileNotFoundError as error:
        _raise_if_refused(error, verb, uri)
        raise FileNotFoundError(f"{uri} does not exist") from error
    except exceptions.PreconditionError as error:
        raise StorageError(f"{uri} was replaced while it was read", code="WRPO-S008") from error
    except (exceptions.BaseError, OSError, ValueError) as error:
        _raise_if_refused(error, verb, uri)
        raise TransientError(reason(error)) from error


def _raise_if_refused(error: Exception, verb: str, uri: str) -> None:
    # A plain 404 is an answer, not a refusal: only one that speaks of the bucket is.
    if isinstance(error, FileNotFoundError) and "NoSuchBucket" not in str(error):
        return
    if (found := refusal(error, verb, uri)) is not None:
        raise found from error


def _client(root_uri: str, policy: RetryPolicy, retry: RetryConfig) -> S3Store | GCSStore:
    scheme, _, bucket = root_uri.partition("://")
    make = {"s3": S3Store, "gs": GCSStore}[scheme]
    try:
        return make(bucket, client_options=_client_options(policy), retry_config=retry)
    except (exceptions.BaseError, OSError, ValueError) as error:
        raise StorageError(f"cannot use {root_uri}: {reason(error)}", code="WRPO-S009") from error


def _client_options(policy: RetryPolicy) -> ClientConfig:
    """Options given here replace what obstore takes from the environment itself, so these two are read again."""
    timeout_s = timedelta(seconds=policy.request_timeout_s)
    options: dict[str, Any] = {
        "connect_timeout": min(timeout_s, timedelta(seconds=5)),
        "read_timeout": timeout_s,
        "timeout": timedelta(seconds=_MAX_REQUEST_S),
        "allow_http": any(os.environ.get(name, "").lower() in ("1", "true") for name in _ALLOW_HTTP),
    }
    if bundle := os.environ.get("AWS_CA_BUNDLE"):
        options["root_certificate"] = Path(bundle).read_bytes()
    return cast("ClientConfig", options)


def _no_retries() -> RetryConfig:
    return {"max_retries": 0, "retry_timeout": timedelta(seconds=1)}


def _part_retries(policy: RetryPolicy) -> RetryConfig:
    """The parts of one upload are tried again by the library: it alone holds the unfinished upload."""
    return {
        "max_retries": 10,
        "retry_timeout": timedelta(seconds=policy.budget_s / 4),
        "backoff": {
            "init_backoff": timedelta(seconds=policy.first_wait_s),
            "max_backoff": timedelta(seconds=min(policy.longest_wait_s, policy.budget_s / 8)),
            "base": 2,
        },
    }


def probe(folder: Location) -> None:
    """See whether `folder`, here or in an object store, can hold a run: write, create twice, read, list, delete.

    Raises StorageError that names what is not possible (access, bucket, region, conditional writes, hard links), within
    five seconds.
    """
    store = ObjectStore(folder.store.root_uri, _PROBE_POLICY) if isinstance(folder.store, ObjectStore) else folder.store
    place = Location(store, folder.key) / temporary_name("probe")
    try:
        _probe(place, Location(store, folder.key))
    except StorageError as error:
        if error.code != "WRPO-S003":
            with contextlib.suppress(StorageError):
                place.delete()
        raise
    place.delete()


def _probe(place: Location, folder: Location) -> None:
    if not place.create_json({"writer": 1}) or place.stat() is None:
        raise StorageError(f"{place} does not hold what was just created there", code="WRPO-S008")
    if place.create_json({"writer": 2}):
        raise StorageError(
            f"{folder} takes no notice of conditional writes: of two creators of one object both were told that they"
            " won, and so two drivers could",
            code="WRPO-S007",
            help="use a store with conditional writes (If-None-Match), or a shared file system",
        )
    folder.walk()
