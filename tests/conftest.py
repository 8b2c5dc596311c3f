"""Fixtures shared by all tests."""

import os
import sys
from collections.abc import Iterator

import pytest

# Tests report to nobody. Ray Data's report also asks a Prometheus that is not there, every ten seconds in a thread of
# the process, and logs each refusal with its traceback: that disturbs what counts memory, and Python before 3.11.8
# fails in `ast.parse` when another thread formats a traceback meanwhile (python/cpython#106905).
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"


@pytest.fixture(autouse=True)
def _hub_as_it_was() -> Iterator[None]:
    """Training in this process closes the hub for good, as it should in a worker; other tests ask one of their own."""
    before = os.environ.get("HF_HUB_OFFLINE")
    yield
    if before is None:
        os.environ.pop("HF_HUB_OFFLINE", None)
    else:
        os.environ["HF_HUB_OFFLINE"] = before
    if (constants := sys.modules.get("huggingface_hub.constants")) is not None:
        constants.HF_HUB_OFFLINE = (before or "").upper() in {"1", "ON", "YES", "TRUE"}


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """One local Ray cluster for the whole session, apart from any other on this machine."""
    import ray

    ray.init(address="local", num_cpus=4, include_dashboard=False)
    yield
    ray.shutdown()
