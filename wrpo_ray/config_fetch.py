"""The section `models`: where copies of the hub's models lie."""

from __future__ import annotations

from wrpo_ray.config_base import Frozen


class ModelStoreConfig(Frozen):
    """Copies of the models that come from the Hugging Face hub, made by `wrpo-ray fetch`."""

    store: str | None = None
    """Folder that all nodes see, or s3://bucket/prefix, or gs://bucket/prefix; runs read the hub's models there alone.

    None: each node fetches them from the hub itself, once, into its own cache."""
