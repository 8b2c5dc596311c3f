"""Which Ray cluster the driver talks to."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from wrpo_ray.config import RayConfig

log = logging.getLogger(__name__)


def cluster_address(config: RayConfig) -> str:
    """Return the address to connect to: the config's, else RAY_ADDRESS (set inside `ray job submit`), else "local".

    A Ray instance that merely happens to run on this machine is never joined; `ray.init()` alone would do that.
    """
    return config.address or os.environ.get("RAY_ADDRESS") or "local"


@contextmanager
def connected(config: RayConfig) -> Iterator[None]:
    """Connect to the cluster of `config`, and end the local one that this started, if it did."""
    import ray
    from ray.data import DataContext

    address = cluster_address(config)
    # Ray Data tells the plan of every single pass; the steps of the run are enough.
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    if address == "local":
        ray.init(address="local", num_cpus=config.num_cpus, include_dashboard=False, log_to_driver=config.log_to_driver)
    else:
        ray.init(address=address, log_to_driver=config.log_to_driver)
    # A job log is no terminal: there, bars would be rewritten thousands of times.
    DataContext.get_current().enable_progress_bars = sys.stderr.isatty()
    log.info("Ray cluster %s: %s", address, _shown_resources(ray.cluster_resources()))
    try:
        yield
    finally:
        ray.shutdown()


def _shown_resources(resources: Mapping[str, float]) -> str:
    return ", ".join(f"{resources.get(name, 0):g} {name}" for name in ("CPU", "GPU"))
