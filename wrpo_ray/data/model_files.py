"""A model's files made ready on the node that this runs on: copied into its cache, or read into its memory."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from wrpo_ray.config import ModelFiles
from wrpo_ray.data.spanning import on_nodes_of_group
from wrpo_ray.model_paths import in_object_store, is_local
from wrpo_ray.models import local_model, on_node
from wrpo_ray.storage.location import locate
from wrpo_ray.storage.node_cache import cache_root

_GIB = 2**30
# What else is written on a node while a run works: responses, checkpoints, Ray's objects.
_DISK_LEFT = 0.1
# Of the memory that is free: engines and their pinned buffers need the rest.
_MEMORY_SHARE = 0.5
_WEIGHTS = "*.safetensors"
NOT_LOADED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.gguf", "*.h5", "*.msgpack", "*.onnx", "*.onnx_data", "original/*")


@dataclass(frozen=True)
class Fetched:
    """What was done for a model: nothing when `bytes_fetched` is 0; `skipped` says why nothing was."""

    bytes_fetched: int = 0
    skipped: str | None = None


def make_ready(files: ModelFiles) -> Fetched:
    """Bring the files of a model to this node, as engines will look for them.

    A download that others ask for at the same time is made once. Raises what the engine would raise.
    """
    if in_object_store(files.path):
        return _from_object_store(files.path)
    if is_local(files.path):
        return Fetched(read_ahead(Path(files.path).expanduser()))
    return _from_hub(files)


def bring(files: object) -> None:
    """Have a model of an object store or of the hub fetched to each node that this replica's engine works on.

    vLLM's workers look for it below the same path on their own nodes, so the cache must have one name on all of them.
    Raises what models.on_node does.
    """
    if not isinstance(files, ModelFiles) or is_local(files.path):
        return
    on_node(files)
    on_nodes_of_group(on_node, files)


def _from_object_store(path: str) -> Fetched:
    stats = [place.stat() for place in locate(path).walk()]
    num_bytes = sum(stat.num_bytes for stat in stats if stat is not None)
    if (why := _no_room(cache_root(), num_bytes)) is not None:
        return Fetched(skipped=why)
    local_model(path)
    return Fetched(num_bytes)


def _from_hub(files: ModelFiles) -> Fetched:
    from huggingface_hub import model_info
    from huggingface_hub.constants import HF_HUB_CACHE, HF_HUB_OFFLINE

    if HF_HUB_OFFLINE:
        return Fetched(skipped="HF_HUB_OFFLINE is set: there is nothing to fetch")
    info = model_info(files.path, revision=files.revision, files_metadata=True)
    num_bytes = sum(each.size or 0 for each in info.siblings or () if Path(each.rfilename).match(_WEIGHTS))
    if (why := _no_room(Path(HF_HUB_CACHE), num_bytes)) is not None:
        return Fetched(skipped=why)
    on_node(files)
    return Fetched(num_bytes)


def _no_room(cache: Path, num_bytes: int) -> str | None:
    """Return why a cache cannot take that much, or None. What is there already is counted again: a bound, no exact one.

    An engine that needs the model tries all the same; what nobody needs yet must not fill the disk.
    """
    folder = next(place for place in (cache, *cache.parents) if place.is_dir())
    disk = shutil.disk_usage(folder)
    if disk.free - num_bytes >= _DISK_LEFT * disk.total:
        return None
    return f"{num_bytes / _GIB:.1f} GiB would leave less than a tenth of the disk of {folder}"


def read_ahead(folder: Path, most_bytes: int | None = None) -> int:
    """Ask the system to read a model's weights into its memory, and return how many bytes of them.

    most_bytes: no more than that; half of the free memory when it is not given. Bytes that the system needs for
    something else it takes back, so nothing is lost by asking.
    """
    left = most_bytes if most_bytes is not None else int(_free_memory() * _MEMORY_SHARE)
    asked = 0
    for path in sorted(folder.glob(_WEIGHTS)):
        num_bytes = min(path.stat().st_size, left - asked)
        if num_bytes <= 0:
            break
        with path.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, num_bytes, os.POSIX_FADV_WILLNEED)
        asked += num_bytes
    return asked


def _free_memory() -> int:
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
