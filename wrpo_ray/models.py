"""Model folders: where they lie, what identifies them, and their tokenizers.

A path in the configuration is a local folder, a folder of an object store (s3://..., gs://...), or a name on the
Hugging Face hub.
"""

from __future__ import annotations

import fnmatch
import functools
import hashlib
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from wrpo_ray.config import FuseConfig, ModelFiles, OpenAISourceConfig
from wrpo_ray.endpoints import endpoint_identity
from wrpo_ray.errors import ModelError
from wrpo_ray.hub_models import Kind, commit_of, hub_folder
from wrpo_ray.model_paths import absolute_path, in_object_store, is_on_hub
from wrpo_ray.model_store import origin, stored
from wrpo_ray.model_trust import require_known_code
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
    path: str, chat_template: str | None = None, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a model folder, with the chat template of the file `chat_template` in place of its own.

    trust_remote_code: run code of the folder, which the caller has compared with hashes or has made itself.
    """
    from transformers import AutoTokenizer

    folder = local_model(path, with_weights=False)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    if chat_template is not None:
        tokenizer.chat_template = _text(chat_template)
    return tokenizer


def tokenizer_of(files: ModelFiles) -> PreTrainedTokenizerBase:
    """Return the tokenizer that a config section describes."""
    here = on_node(files, with_weights=False)
    return load_tokenizer(here.path, files.chat_template, files.trust_remote_code)


def on_node(files: _Files, with_weights: bool = True) -> _Files:
    """Return a model section that names a folder on this node, with files that were compared with their hashes.

    What the folder is read with afterwards asks no network. with_weights: as local_model has it. Raises ModelError when
    the model cannot be had, or has code that is to run and whose hashes are not in the section.
    """
    if is_on_hub(files.path):
        kind = Kind(with_weights, files.trust_remote_code)
        folder = str(hub_folder(files.path, commit_of(files.path, files.revision), kind))
    else:
        folder = local_model(absolute_path(files.path), with_weights)
    if files.trust_remote_code:
        require_known_code(Path(folder), files.code_sha256)
    return files.model_copy(update={"path": folder, "revision": None})


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


def on_node_for_good(files: _Files) -> _Files:
    """Return what on_node does, in a process that has nothing else to ask the hub for from then on, and cannot."""
    here = on_node(files)
    os.environ["HF_HUB_OFFLINE"] = "1"
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = True
    return here


def pinned(files: _Files) -> _Files:
    """Return a model section that means the same files everywhere: local paths spelled out, hub names with a commit."""
    template = files.chat_template
    if template is not None and not in_object_store(template):
        template = str(Path(template).absolute())
    revision = commit_of(files.path, files.revision) if is_on_hub(files.path) else files.revision
    return files.model_copy(update={"path": absolute_path(files.path), "chat_template": template, "revision": revision})


def resolved(config: FuseConfig) -> FuseConfig:
    """Return `config` with local paths spelled out and hub models pinned to the commit that they stand at now.

    Engines and workers run in other folders, on other nodes and later; they must all get what was planned. With a store
    of models those of the hub are their copies there; raises as model_store.stored does.
    """
    config = stored(config)
    reward = pinned(config.reward) if isinstance(config.reward, ModelFiles) else config.reward
    sources = tuple(pinned(source) if isinstance(source, ModelFiles) else source for source in config.sources)
    return config.model_copy(update={"sources": sources, "target": pinned(config.target), "reward": reward})


def model_identity(files: ModelFiles | OpenAISourceConfig) -> dict[str, Any]:
    """Return JSON values that change when the model does: hashes of a folder's files, or the hub name and commit.

    A folder gives the same ones here and in an object store, a copy of a hub model those of the hub. Of a model behind
    an endpoint only its name is known.
    """
    if isinstance(files, OpenAISourceConfig):
        return endpoint_identity(files)
    template = _text(files.chat_template) if files.chat_template else None
    if is_on_hub(files.path):
        return {"hub": files.path, "commit": commit_of(files.path, files.revision), "chat_template": template}
    path = files.path if in_object_store(files.path) else Path(files.path).expanduser().resolve()
    if (copied := origin(str(path))) is not None:
        return {"hub": copied.name, "commit": copied.commit, "chat_template": template}
    return {"files": folder_digest(path), "chat_template": template}


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
