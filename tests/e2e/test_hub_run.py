"""Whole runs of models on a hub: each fetched once, however many processes need it; none without a network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hub_server import COMMIT, HubServer, hub_server

REPOSITORY = Path(__file__).parents[2]
MODELS = {
    "sources.source-qwen2": "source-qwen2",
    "sources.source-neox": "source-neox",
    "target": "target",
    "reward": "reward",
}
NOBODY = "http://127.0.0.1:9"
COMMAND = "import sys; from wrpo_ray.cli import main; sys.exit(main())"


def config(tmp_path: Path, *overrides: str) -> list[str]:
    paths = [f"{place}.path=organisation/{name}" for place, name in MODELS.items()]
    return ["jobs/configs/smoke.yaml", f"run.root={tmp_path / 'runs'}", *paths, *overrides]


def started(command: list[str], endpoint: str, cache: Path, **variables: str) -> str:
    """Run a command with caches below `cache`, and return what it printed; it must succeed."""
    environment = os.environ | {
        "PYTHONPATH": str(REPOSITORY), "HF_ENDPOINT": endpoint, "HF_HUB_CACHE": str(cache / "hub"),
        "WRPO_RAY_CACHE": str(cache / "node"), **variables,
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, *command], cwd=REPOSITORY, env=environment, text=True, capture_output=True, check=False
    )
    print(done.stderr[-6000:])
    assert done.returncode == 0, done.stderr[-6000:]
    return done.stdout


def served(server: HubServer) -> None:
    for name in MODELS.values():
        server.add(f"organisation/{name}", REPOSITORY / "jobs" / "smoke" / name)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_fetches_each_model_once_and_then_needs_no_hub(tmp_path: Path) -> None:
    """Two replicas, training workers and tokenising tasks share what the first of them has fetched."""
    file, *overrides = config(tmp_path, "sources.source-neox.resources.num_replicas=2")
    fuse = ["jobs/fuse.py", "--config", file, *overrides]
    with hub_server() as server:
        served(server)
        started(fuse, server.address, tmp_path / "cache")
        fetched = {line: count for line, count in server.requests.items() if line.endswith("model.safetensors")}
        assert {line: count for line, count in fetched.items() if line.startswith("GET")} == {
            f"GET /organisation/{name}/resolve/{COMMIT}/model.safetensors": 1 for name in MODELS.values()
        }
        fetch = ["-c", COMMAND, "fetch", file, *overrides, "--to", str(tmp_path / "store")]
        assert "all files have the hashes" in started(fetch, server.address, tmp_path / "cache")
        assert server.downloads("model.safetensors") == len(MODELS)
    # The same run, seen from a machine that has the store and nothing else.
    plan = started([*fuse, "--dry-run", f"models.store={tmp_path / 'store'}"], NOBODY, tmp_path / "another machine")
    assert "complete" in plan
    assert "to run" not in plan


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_from_the_store_without_a_network(tmp_path: Path) -> None:
    store = tmp_path / "store"
    file, *overrides = config(tmp_path, f"models.store={store}")
    with hub_server() as server:
        served(server)
        started(["-c", COMMAND, "fetch", file, *overrides], server.address, tmp_path / "cache")
    out = started(["jobs/fuse.py", "--config", file, *overrides], NOBODY, tmp_path / "node", HF_HUB_OFFLINE="1")
    assert "fused model:" in out
