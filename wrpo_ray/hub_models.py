"""Models of the Hugging Face hub on this node: pinned to a commit, fetched once, compared with the hub's own hashes.

<cache>/<name>-<hash of name, commit and kind>/               links to files in the hub's cache; there when all verified
<cache>/<name>-<hash of name, commit and kind>/.fetched.json  sizes and hashes of them, and all names of the repository
The folder holds what is read and nothing else: safetensors, configuration and tokenizer, and code when it may run.
Who reads it asks the hub nothing, so that many engines that start at once cost one download and no request more.
"""

from __future__ import annotations

import fnmatch
import glob
import hashlib
import json
import logging
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from wrpo_ray.errors import ModelError
from wrpo_ray.hub_errors import hub_errors
from wrpo_ray.storage.location import is_path_below
from wrpo_ray.storage.node_cache import cache_root
from wrpo_ray.storage.stores import free_bytes, local_errors, no_space

log = logging.getLogger(__name__)

FETCHED = ".fetched.json"
WEIGHTS_INDEX = "model.safetensors.index.json"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
# Configuration and tokenizers; tokenizers of sentencepiece and tiktoken are called *.model and *.tiktoken.
_SMALL_FILES = ("*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken", "*.vocab", "*.bpe", "*.model.v*")
_WEIGHTS = "*.safetensors"
# The same weights again under the names of their makers' own programs.
OTHER_WEIGHTS = ("consolidated*", "original/*", "*.fp16.safetensors")
_CODE = "*.py"


@dataclass(frozen=True)
class HubFile:
    """A file of a repository. digest: SHA-256, or the SHA-1 by which git knows a small file; None: not known."""

    path: str
    num_bytes: int
    digest: str | None


@dataclass(frozen=True)
class Kind:
    """Which files of a model are wanted besides configuration and tokenizer."""

    weights: bool = True
    code: bool = False


def is_commit(revision: str | None) -> bool:
    """Tell whether a revision is a commit hash, which can never mean anything else."""
    return revision is not None and _COMMIT.fullmatch(revision) is not None


def commit_of(name: str, revision: str | None) -> str:
    """Return the commit that a branch or tag of `name` stands at (none: the default branch), or the commit itself.

    From the local cache when offline. Raises ModelError when the hub has no answer.
    """
    if revision is not None and is_commit(revision):
        return revision
    from huggingface_hub import hf_hub_download

    # The cache keeps files at .../snapshots/<commit>/config.json, and which commit a branch stood at.
    with hub_errors(name, revision):
        return Path(hf_hub_download(name, "config.json", revision=revision)).parent.name


def hub_folder(name: str, commit: str, kind: Kind) -> Path:
    """Return a folder on this node with a model's files, each compared with the hub's hash of it.

    However many processes ask at once, one of them fetches. Without a network the hub's own cache must hold the files.
    Raises ModelError when the hub does not give the model, or a file is not the one that the hub lists.
    """
    text = json.dumps([name, commit, kind.weights, kind.code])
    final = cache_root() / f"{name.rpartition('/')[2]}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    if is_whole(final):
        return final
    with local_errors("write", final):
        final.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(final.with_name(f"{final.name}.lock")):
        if not is_whole(final):
            with hub_errors(name, commit):
                _fetch(name, commit, kind, final)
    return final


def read_record(folder: Path) -> Mapping[str, Any] | None:
    """Return what is known of a fetched folder: name, commit, its files, and all names of the repository; else None.

    A record that was cut (a machine that lost power) is none: the folder is made again.
    """
    try:
        record = json.loads((folder / FETCHED).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return None
    return record if _is_record(record) else None


def _is_record(record: Any) -> bool:
    """Tell whether a record holds what its readers expect."""
    if not isinstance(record, dict) or not {"hub", "commit"} <= record.keys():
        return False
    files, names = record.get("files"), record.get("names")
    if not isinstance(files, dict) or not isinstance(names, list):
        return False
    return all(isinstance(entry, list) and len(entry) == 2 and is_path_below(path) for path, entry in files.items())


def is_whole(folder: Path) -> bool:
    """Tell whether a folder was fetched and nobody has cleaned up what it links to since."""
    record = read_record(folder)
    return record is not None and all(
        _size(folder / path) == num_bytes for path, (num_bytes, _) in record["files"].items()
    )


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _fetch(name: str, commit: str, kind: Kind, final: Path) -> None:
    """Bring the files into the hub's cache, compare them, and link them under their final name; the lock is held."""
    for dead in [*final.parent.glob(f"{glob.escape(final.name)}.*.tmp"), final]:
        shutil.rmtree(dead, ignore_errors=True)
    snapshot, files, names = _found(name, commit, kind)
    for file in files:
        if not is_path_below(file.path):
            rule = f"{name}: the hub lists {file.path!a}, which is no file below a model's folder"
            raise ModelError(rule, code="WRPO-M018", help="do not use this model, or the server that lists it")
    digests = {file.path: _verified(name, commit, snapshot, file) for file in files}
    record = {
        "hub": name,
        "commit": commit,
        "files": {file.path: [file.num_bytes, digests[file.path]] for file in files},
        "names": sorted(names),
    }
    with local_errors("write", final), _partial(final) as partial:
        for file in files:
            (partial / file.path).parent.mkdir(parents=True, exist_ok=True)
            (partial / file.path).symlink_to((snapshot / file.path).resolve())
        (partial / FETCHED).write_text(json.dumps(record), encoding="utf-8")
        partial.rename(final)


@contextmanager
def _partial(final: Path) -> Iterator[Path]:
    partial = final.with_name(f"{final.name}.{uuid.uuid4().hex}.tmp")
    partial.mkdir()
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _is_offline() -> bool:
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def _found(name: str, commit: str, kind: Kind) -> tuple[Path, list[HubFile], list[str]]:
    """Return where the files are now, which they are, and all names of the repository; from the cache if need be."""
    if _is_offline():
        return _offline(name, commit, kind)
    from httpx2 import HTTPError

    try:
        return _online(name, commit, kind)
    except (OSError, HTTPError) as error:
        try:
            return _offline(name, commit, kind)
        except (OSError, HTTPError):
            raise error from None


def _online(name: str, commit: str, kind: Kind) -> tuple[Path, list[HubFile], list[str]]:
    from huggingface_hub import hf_hub_download, snapshot_download

    listed = {file.path: file for file in _listed(name, commit)}
    shards = None
    if kind.weights and WEIGHTS_INDEX in listed:
        index = Path(hf_hub_download(name, WEIGHTS_INDEX, revision=commit))
        shards = _shards(name, index)
        _require_all(name, shards, listed)
    files = [listed[path] for path in wanted(listed, kind, shards)]
    _require_room(name, commit, files)
    if kind.weights:
        log.info("fetching %s at %s: %d files", name, commit, len(files))
    patterns = [glob.escape(file.path) for file in files]
    return Path(snapshot_download(name, revision=commit, allow_patterns=patterns)), files, list(listed)


def _listed(name: str, commit: str) -> Iterator[HubFile]:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    for entry in HfApi(library_name="wrpo_ray").list_repo_tree(name, revision=commit, recursive=True):
        if isinstance(entry, RepoFile):
            yield HubFile(entry.path, entry.size, entry.lfs.sha256 if entry.lfs else entry.blob_id)


def _offline(name: str, commit: str, kind: Kind) -> tuple[Path, list[HubFile], list[str]]:
    """Find the files in the hub's cache, which names each by its hash: .../blobs/<SHA-256 or git's SHA-1>."""
    from huggingface_hub import hf_hub_download

    snapshot = Path(hf_hub_download(name, "config.json", revision=commit)).parent
    names = [path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if path.is_file()]
    index = snapshot / WEIGHTS_INDEX
    shards = _shards(name, index) if kind.weights and index.is_file() else None
    _require_all(name, shards or (), names)
    blobs = {path: (snapshot / path).resolve() for path in wanted(names, kind, shards)}
    files = [HubFile(path, blob.stat().st_size, _hash_in_name(blob)) for path, blob in blobs.items()]
    return snapshot, files, names


def _hash_in_name(blob: Path) -> str | None:
    return blob.name if _SHA256.fullmatch(blob.name) or _COMMIT.fullmatch(blob.name) else None


def _shards(name: str, index: Path) -> list[str]:
    try:
        return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        rule = f"{name}: the index of the weights cannot be read: {error!r}"
        raise ModelError(rule, code="WRPO-M005", help="fetch it again") from error


def _require_all(name: str, shards: Iterable[str], names: Iterable[str]) -> None:
    if missing := sorted(set(shards) - set(names)):
        rule = f"{name}: {len(missing)} files of weights are missing, the first is {missing[0]}"
        raise ModelError(rule, code="WRPO-M005", help="fetch it where there is a network: wrpo-ray fetch CONFIG")


def wanted(names: Iterable[str], kind: Kind, shards: Iterable[str] | None = None) -> list[str]:
    """Return which files of a repository are fetched. shards: the weights that its index lists, where it has one."""
    listed = None if shards is None else set(shards)
    return sorted(name for name in names if _is_wanted(name, kind, listed))


def _is_wanted(name: str, kind: Kind, shards: set[str] | None) -> bool:
    if fnmatch.fnmatchcase(name, _CODE):
        return kind.code
    if fnmatch.fnmatchcase(name, _WEIGHTS):
        other = any(fnmatch.fnmatchcase(name, pattern) for pattern in OTHER_WEIGHTS)
        return kind.weights and (name in shards if shards is not None else "/" not in name and not other)
    if "/" in name and not name.startswith("additional_chat_templates/"):
        return False
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in _SMALL_FILES)


def _require_room(name: str, commit: str, files: Iterable[HubFile]) -> None:
    from huggingface_hub import constants, try_to_load_from_cache

    missing = [file for file in files if not isinstance(try_to_load_from_cache(name, file.path, revision=commit), str)]
    num_bytes, cache = sum(file.num_bytes for file in missing), Path(constants.HF_HUB_CACHE)
    if missing and free_bytes(cache) < num_bytes:
        raise no_space("download to", cache, num_bytes)


def _verified(name: str, commit: str, snapshot: Path, file: HubFile) -> str:
    """Return the hash of a fetched file that is the one the hub lists; one that is not is fetched once more."""
    blob = (snapshot / file.path).resolve()
    digest = file.digest or content_hash(blob, 64)
    if content_hash(blob, len(digest)) == digest:
        return digest
    if not _is_offline():
        from huggingface_hub import hf_hub_download

        log.warning("%s of %s is not what the hub lists, fetching it again", file.path, name)
        blob.unlink()
        blob = Path(hf_hub_download(name, file.path, revision=commit)).resolve()
        if content_hash(blob, len(digest)) == digest:
            return digest
    raise ModelError(
        f"{name}: {file.path} is not the file that the hub lists: hash {content_hash(blob, len(digest))} instead of"
        f" {digest} ({blob})",
        code="WRPO-M018",
        help="remove that file and fetch the model again; if it stays so, do not use the model",
    )


def content_hash(path: Path, num_digits: int) -> str:
    """Return the SHA-256 of a file (64 digits), or the SHA-1 by which git knows it (40 digits)."""
    with path.open("rb") as stream:
        if num_digits == 64:
            return hashlib.file_digest(stream, "sha256").hexdigest()
        # Git's object ids, not a protection of ours: whoever writes the repository chooses the content anyway.
        digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
        while piece := stream.read(2**20):
            digest.update(piece)
        return digest.hexdigest()
