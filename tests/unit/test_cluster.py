"""Which cluster a run joins, and what it refuses to wait for."""

import pytest

from wrpo_ray.cluster import Demand, cluster_address, connected, unmet
from wrpo_ray.config import RayConfig


def test_a_cluster_is_joined_only_when_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert cluster_address(RayConfig()) == "local"
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert cluster_address(RayConfig()) == "10.0.0.1:6379"
    assert cluster_address(RayConfig(address="local")) == "local"


def test_each_process_needs_one_node_that_holds_it() -> None:
    nodes = [{"CPU": 8.0, "GPU": 4.0}, {"CPU": 8.0, "GPU": 4.0}, {"CPU": 2.0}]
    met = [Demand("a", 1, 1.0, 4.0), Demand("b", 8, 2.0, 1.0), Demand("c", 16, 1.0, 0.5), Demand("d", 18, 1.0, 0.0)]
    assert unmet(met, nodes) == []
    problems = unmet([Demand("tp8", 1, 1.0, 8.0), Demand("workers", 9, 1.0, 1.0), Demand("cpus", 1, 9.0, 0.0)], nodes)
    assert [(problem.place, problem.rule) for problem in problems] == [
        ("tp8", "the cluster has room for 0 such processes"),
        ("workers", "the cluster has room for 8 such processes"),
        ("cpus", "the cluster has room for 0 such processes"),
    ]


def test_runs_inside_of_a_session_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def never(*arguments: object, **options: object) -> None:
        raise AssertionError("the session is somebody else's")

    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "init", never)
    monkeypatch.setattr(ray, "shutdown", never)
    with connected(RayConfig(address="local")):
        pass
