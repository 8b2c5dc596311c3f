"""Files that killed writers left behind."""

from __future__ import annotations

from wrpo_ray.storage.location import Location
from wrpo_ray.storage.objects import ObjectStore
from wrpo_ray.storage.stores import LocalStore, is_temporary


def remove_leftovers(folder: Location, older_than_s: float) -> int:
    """Remove unfinished files below `folder` that are older than so many seconds; return how many.

    Age is told by the store's clock. Choose one that no writer outlives: a day, say. Parts of uploads that were never
    completed are no objects and are not seen: a lifecycle rule of the bucket (AbortIncompleteMultipartUpload) removes
    them.
    """
    store = folder.store
    if not isinstance(store, LocalStore | ObjectStore):
        return 0
    keys = [key for key in store.list_all(folder.key) if is_temporary(key)]
    if not keys:
        return 0
    before = store.now(folder.key) - older_than_s
    found = [(key, store.stat(key)) for key in keys]
    old = [key for key, stat in found if stat is not None and stat.modified < before]
    for key in old:
        store.delete(key)
    return len(old)
