"""How large a node's cache of models must be: every source may visit every node."""

from __future__ import annotations

import math

from wrpo_ray.config import FuseConfig
from wrpo_ray.config_cluster import CacheConfig
from wrpo_ray.errors import ConfigError, Problem
from wrpo_ray.planning.lookup import find_shapes

_BYTES_PER_WEIGHT = 2
# Tokenizers, second formats of the weights, and a download that lies beside its copy for a moment.
_ROOM = 1.2
_LEAST_GB = 10


def cache_size_gb(config: FuseConfig, cache: CacheConfig) -> int | None:
    """Return the GiB of a node's cache: as given, or 1.2 times all weights in 16 bits; None where a claim has its own.

    Raises ConfigError when a model's size is not known.
    """
    if cache.claim:
        return None
    if cache.size_gb:
        return cache.size_gb
    try:
        shapes = find_shapes(config)
    except ConfigError as error:
        rule, fix = "the size of a model is not known, so the cache's is not either", "set it to the GiB of all models"
        problem = Problem("cluster.kuberay.cache.size_gb", "null", rule, fix, "WRPO-C141")
        raise ConfigError.of("cannot render", [problem, *error.problems]) from error
    weights = sum(found.shape.parameters for found in shapes.values()) * _BYTES_PER_WEIGHT
    return max(_LEAST_GB, math.ceil(weights * _ROOM / 2**30))
