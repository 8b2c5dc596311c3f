"""A tiny model and its training data, shared by the tests of training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.train import runs
from wrpo_ray.storage.location import Location, locate


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Location:
    """Ten rows: two full global batches of four, and one of two."""
    return runs.write_examples(tmp_path_factory.mktemp("examples"), 10)


@pytest.fixture(scope="session")
def quadruples(tmp_path_factory: pytest.TempPathFactory) -> Location:
    return runs.write_quadruples(tmp_path_factory.mktemp("quadruples"), 10)


@pytest.fixture(scope="session")
def reference(
    local_ray: Iterator[None], model: Path, quadruples: Location, tmp_path_factory: pytest.TempPathFactory
) -> Location:
    """Reference log-probs, computed by two workers."""
    from wrpo_ray.train.launch import run_reference

    out = locate(tmp_path_factory.mktemp("reference"))
    config = runs.make_config(model, wrpo={"num_workers": 2, "micro_batch_tokens": 4096})
    result = run_reference(config, str(model), quadruples, out)
    assert result.summary["num_rows"] == 10
    return runs.finish_step(out, result=result)
