"""Model folders: where they lie, what identifies them, and their tokenizers."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from wrpo_ray.config import ModelFiles

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_Files = TypeVar("_Files", bound=ModelFiles)
_WHOLE_FILE_BYTES = 64 * 2**20
_NUM_PROBES = 16
_PROBE_BYTES = 2**20
_IDENTITY_PATTERNS = ("*.json", "*.jinja", "*.model", "*.txt", "*.safetensors", "*.py")


def load_tokenizer(
    path: str, revision: str | None = None, chat_template: str | None = None, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a model, with the chat template of the file `chat_template` in place of its own."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)
    if chat_template is not None:
        tokenizer.chat_template = Path(chat_template).read_text(encoding="utf-8")
    return tokenizer


def tokenizer_of(files: ModelFiles) -> PreTrainedTokenizerBase:
    """Return the tokenizer that a config section describes."""
    return load_tokenizer(absolute_path(files.path), files.revision, files.chat_template, files.trust_remote_code)


def is_local(path: str) -> bool:
    """Tell whether a model path means a folder, not a name on the Hugging Face hub."""
    return path.startswith(("/", "./", "../", "~")) or Path(path).is_dir()


def absolute_path(path: str) -> str:
    """Return a local model path spelled out, and a hub name as it is."""
    return str(Path(path).expanduser().absolute()) if is_local(path) else path


def pinned(files: _Files) -> _Files:
    """Return a model section that means the same files everywhere: local paths spelled out, hub names with a commit."""
    template = files.chat_template and str(Path(files.chat_template).absolute())
    revision = files.revision if is_local(files.path) else files.revision or _hub_commit(files.path)
    return files.model_copy(update={"path": absolute_path(files.path), "chat_template": template, "revision": revision})


def model_identity(files: ModelFiles) -> dict[str, Any]:
    """Return JSON values that change when the model does: hashes of a local folder, or the hub name and commit."""
    template = Path(files.chat_template).read_text(encoding="utf-8") if files.chat_template else None
    if is_local(files.path):
        return {"files": folder_digest(Path(files.path).expanduser().resolve()), "chat_template": template}
    return {"hub": files.path, "commit": files.revision or _hub_commit(files.path), "chat_template": template}


@functools.lru_cache
def folder_digest(folder: Path) -> str:
    """Return one hash over the names and contents of a model folder's files.

    A file over 64 MiB is read in 16 evenly spaced pieces of 1 MiB: enough to tell two trainings apart, and a
    terabyte of sources is identified in seconds. It is no protection against somebody who wants a collision.
    """
    paths = sorted({path for pattern in _IDENTITY_PATTERNS for path in folder.glob(pattern)})
    entries = [(path.name, path.stat().st_size, _probe(path)) for path in paths]
    return hashlib.sha256(json.dumps(entries).encode("utf-8")).hexdigest()


def _probe(path: Path) -> str:
    size = path.stat().st_size
    with path.open("rb") as stream:
        if size <= _WHOLE_FILE_BYTES:
            return hashlib.file_digest(stream, "sha256").hexdigest()
        digest = hashlib.sha256()
        for number in range(_NUM_PROBES):
            stream.seek((size - _PROBE_BYTES) * number // (_NUM_PROBES - 1))
            digest.update(stream.read(_PROBE_BYTES))
        return digest.hexdigest()


def _hub_commit(name: str) -> str:
    """Return the commit that the hub's default branch of `name` stands at, from the local cache when offline."""
    from huggingface_hub import hf_hub_download

    # The cache keeps files at .../snapshots/<commit>/config.json.
    return Path(hf_hub_download(name, "config.json")).parent.name
