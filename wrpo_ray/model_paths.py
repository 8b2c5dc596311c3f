"""What the path of a model means: a folder, a folder of an object store, or a name on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path


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


def is_on_hub(path: str) -> bool:
    """Tell whether a model path is a name on the Hugging Face hub."""
    return not (is_local(path) or in_object_store(path))
