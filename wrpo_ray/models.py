"""Model folders: where they lie, what identifies them, and their tokenizers.

A path in the configuration is a local folder, a folder of an object store (s3://..., gs://...), or a name on the
Hugging Face hub.
"""

from __future__ import annotations

import fnmatch
import functools
import hashlib
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from wrpo_ray.config import FuseConfig, ModelFiles, OpenAISourceConfig
from wrpo_ray.endpoints import endpoint_identity
from wrpo_ray.errors import ModelError
from wrpo_ray.storage.location import Location, locate
from wrpo_ray.storage.node_cache import cached_folder
from wrpo_ray.storage.objects import ObjectStore

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_Files = TypeVar("_Files", bound=ModelFiles)
_WHOLE_FILE_BYTES = 64 * 2**20
_NUM_PROBES = 16
_PROBE_BYTES = 2**20
_IDENTITY_PATTERNS = ("*.json", "*.jinja", "*.model", "*.txt", "*.safetensors", "*.py")
_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx")


def load_tokenizer(
    path: str, revision: str | None = None, chat_template: str | None = None, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a model, with the chat template of the file `chat_template` in place of its own."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        local_model(path, with_weights=False), revision=revision, trust_remote_code=trust_remote_code
    )
    if chat_template is not None:
        tokenizer.chat_template = _text(chat_template)
    return tokenizer


def tokenizer_of(files: ModelFiles) -> PreTrainedTokenizerBase:
    """Return the tokenizer that a config section describes."""
    return load_tokenizer(absolute_path(files.path), files.revision, files.chat_template, files.trust_remote_code)


def in_object_store(path: str) -> bool:
    """Tell whether a path names a place in an object store."""
    return path.startswith(("s3://", "gs://"))


def is_local(path: str) -> bool:
    """Tell whether a model path means a folder that this node can read, not an object store nor a name on the hub."""
    if in_object_store(path):
        return False
    return path.startswith(("/", "./", "../", "~")) or Path(path).is_dir()


def absolute_path(path: str) -> str:
    """Return a local model path spelled out, and any other as it is."""
    return str(Path(path).expanduser().absolute()) if is_local(path) else path


def local_model(path: str, with_weights: bool = True) -> str:
    """Return where the model lies for programs that read folders: a copy on this node of one in an object store.

    The copy is made once per node and is whole and verified, however many processes ask at once; any other path is
    returned as it is. with_weights: False leaves out the large files, for whoever needs configuration or tokenizer.
    Raises ModelError when there is no model, StorageError when the store does not answer or holds something else.
    """
    if not in_object_store(path):
        _require_here(path)
        return path
    wanted = (lambda _: True) if with_weights else _is_no_weight
    try:
        return str(cached_folder(locate(path), wanted))
    except FileNotFoundError as error:
        raise ModelError(f"{path}: no model there, {error}", code="WRPO-M002", help="correct the path") from error


def _require_here(path: str) -> None:
    """A node that joined late was not asked (node_paths); libraries take a folder that is missing for a hub's name."""
    if path.startswith("/") and not Path(path).is_dir():
        raise ModelError(
            f"{path}: no such folder on the node {socket.gethostname()}", code="WRPO-M002",
            help="every node must see it below this path; or put the model into an object store (s3://..., gs://...)",
        )  # fmt: skip


def _is_no_weight(path: str) -> bool:
    return not path.endswith(_WEIGHT_SUFFIXES)


def pinned(files: _Files) -> _Files:
    """Return a model section that means the same files everywhere: local paths spelled out, hub names with a commit."""
    template = files.chat_template
    if template is not None and not in_object_store(template):
        template = str(Path(template).absolute())
    on_hub = not (is_local(files.path) or in_object_store(files.path))
    revision = files.revision or (_hub_commit(files.path) if on_hub else None)
    return files.model_copy(update={"path": absolute_path(files.path), "chat_template": template, "revision": revision})


def resolved(config: FuseConfig) -> FuseConfig:
    """Return `config` with local paths spelled out and hub models pinned to the commit that they stand at now.

    Engines and workers run in other folders, on other nodes and later; they must all get what was planned.
    """
    reward = pinned(config.reward) if isinstance(config.reward, ModelFiles) else config.reward
    sources = tuple(pinned(source) if isinstance(source, ModelFiles) else source for source in config.sources)
    return config.model_copy(update={"sources": sources, "target": pinned(config.target), "reward": reward})


def model_identity(files: ModelFiles | OpenAISourceConfig) -> dict[str, Any]:
    """Return JSON values that change when the model does: hashes of a folder's files, or the hub name and commit.

    A folder gives the same ones here and in an object store. Of a model behind an endpoint only its name is known.
    """
    if isinstance(files, OpenAISourceConfig):
        return endpoint_identity(files)
    template = _text(files.chat_template) if files.chat_template else None
    if in_object_store(files.path):
        return {"files": folder_digest(files.path), "chat_template": template}
    if is_local(files.path):
        return {"files": folder_digest(Path(files.path).expanduser().resolve()), "chat_template": template}
    return {"hub": files.path, "commit": files.revision or _hub_commit(files.path), "chat_template": template}


@functools.lru_cache
def folder_digest(folder: Path | str) -> str:
    """Return one hash over the names and contents of a model folder's files; a URI names one in an object store.

    A file over 64 MiB is read in 16 evenly spaced pieces of 1 MiB: enough to tell two trainings apart, and a
    terabyte of sources is identified in seconds. It is no protection against somebody who wants a collision.
    """
    place = locate(folder)
    entries = [_identity(place / name) for name in _names_of_identity(place)]
    return hashlib.sha256(json.dumps(entries).encode("utf-8")).hexdigest()


def _names_of_identity(folder: Location) -> list[str]:
    """Only what lies directly in the folder is the model's."""
    local = folder.local_path
    if local is not None:
        names = [path.name for path in local.iterdir() if path.is_file()]
    else:
        names = [place.relative_to(folder) for place in folder.walk()]
    return sorted(
        name
        for name in names
        if "/" not in name and any(fnmatch.fnmatchcase(name, pattern) for pattern in _IDENTITY_PATTERNS)
    )


def _identity(place: Location) -> tuple[str, int, str]:
    stat = place.stat()
    if stat is None:
        raise ModelError(f"{place} was removed while it was read", code="WRPO-M002")
    if isinstance(place.store, ObjectStore):
        read_range = functools.partial(place.store.read_range, place.key)
        return place.name, stat.num_bytes, _probe(stat.num_bytes, read_range)
    with Path(place.key).open("rb") as stream:

        def read_local(start: int, num_bytes: int) -> bytes:
            stream.seek(start)
            return stream.read(num_bytes)

        return place.name, stat.num_bytes, _probe(stat.num_bytes, read_local)


def _probe(size: int, read: Callable[[int, int], bytes]) -> str:
    """read(start, num_bytes) gives a piece of the file."""
    if size <= _WHOLE_FILE_BYTES:
        return hashlib.sha256(read(0, size)).hexdigest()
    digest = hashlib.sha256()
    for number in range(_NUM_PROBES):
        digest.update(read((size - _PROBE_BYTES) * number // (_NUM_PROBES - 1), _PROBE_BYTES))
    return digest.hexdigest()


def _text(path: str) -> str:
    return locate(path).read_bytes().decode("utf-8")


def _hub_commit(name: str) -> str:
    """Return the commit that the hub's default branch of `name` stands at, from the local cache when offline."""
    from huggingface_hub import hf_hub_download

    # The cache keeps files at .../snapshots/<commit>/config.json.
    return Path(hf_hub_download(name, "config.json")).parent.name
