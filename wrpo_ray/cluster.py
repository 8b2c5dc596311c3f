"""Which Ray cluster the driver talks to."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from wrpo_ray.cluster_auth import prepare_token, refusals_told, require_closed
from wrpo_ray.config import FuseConfig, RayConfig, VerifierRewardConfig
from wrpo_ray.errors import ConfigError, Problem, list_problems
from wrpo_ray.loopback import on_loopback_alone
from wrpo_ray.process_trust import require_safe_process

log = logging.getLogger(__name__)


def cluster_address(config: RayConfig) -> str:
    """Return the address to connect to: the config's, else RAY_ADDRESS (set inside `ray job submit`), else "local".

    A Ray instance that merely happens to run on this machine is never joined; `ray.init()` alone would do that.
    """
    return config.address or os.environ.get("RAY_ADDRESS") or "local"


@contextmanager
def connected(config: RayConfig) -> Iterator[None]:
    """Connect to the cluster of `config`, and end the local one that this started, if it did.

    Inside of itself it does nothing: the runs of a study share one session.
    """
    import ray
    from ray.data import DataContext

    require_safe_process()
    if ray.is_initialized():
        yield
        return
    address = cluster_address(config)
    # Ray is pinned; data.replicas has no other way to name the replicas of Ray Data's pools before 2.64.
    warnings.filterwarnings("ignore", message="`ray_remote_args_fn` is deprecated")
    # Ray Data tells the plan of every single pass; the steps of the run are enough.
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    prepare_token(config, address)
    # Says where the dashboard is, in colours, into logs too; the line below says where the cluster is.
    logging.getLogger("ray._private.worker").setLevel(logging.WARNING)
    with on_loopback_alone() if address == "local" else nullcontext(), _started(config, address):
        # The whole run has one display (live.show): a bar for every pass would write over it.
        DataContext.get_current().enable_progress_bars = False
        log.info("Ray cluster %s: %s", address, _shown_resources(ray.cluster_resources()))
        yield


@contextmanager
def _started(config: RayConfig, address: str) -> Iterator[None]:
    """Start or join the cluster, and let go of it afterwards, or when it lets in whoever asks."""
    import ray

    try:
        with refusals_told():
            if address == "local":
                ray.init(
                    address="local", num_cpus=config.num_cpus, include_dashboard=False,
                    log_to_driver=config.log_to_driver,
                )  # fmt: skip
            else:
                ray.init(address=address, log_to_driver=config.log_to_driver)
        require_closed(config, ray.get_runtime_context().gcs_address)
        yield
    finally:
        ray.shutdown()


@dataclass(frozen=True)
class Demand:
    """What one section of the config asks for at once: `count` processes, each on one node."""

    place: str
    count: int
    num_cpus: float
    num_gpus: float


def demands(config: FuseConfig) -> list[Demand]:
    """Return what each section asks for; of engines one replica, since a smaller pool only takes longer."""
    places = [(f"sources.{source.name}.resources", source.resources) for source in config.sources]
    places.append(("target.resources", config.target.resources))
    if not isinstance(config.reward, VerifierRewardConfig):
        places.append(("reward.resources", config.reward.resources))
    if config.evaluation and config.evaluation.judge:
        places.append(("evaluation.judge.num_cpus", config.evaluation.judge.resources))
    engines = [
        # One that spans nodes is as many equal parts.
        Demand(place, nodes := resources.num_nodes, resources.num_cpus / nodes, resources.num_gpus / nodes)
        for place, resources in places
    ]
    training = [
        Demand(place, train.num_workers, train.num_cpus_per_worker, train.num_gpus_per_worker)
        for place, train in (("sft", config.sft), ("wrpo", config.wrpo))
    ]
    return [*engines, *training]


def unmet(wanted: Sequence[Demand], nodes: Sequence[Mapping[str, float]]) -> list[Problem]:
    """Return the demands that nodes with these resources can never meet, however long they wait."""
    problems = []
    for demand in wanted:
        places = sum(
            int(min(_times(node.get("CPU", 0.0), demand.num_cpus), _times(node.get("GPU", 0.0), demand.num_gpus)))
            for node in nodes
        )
        if places < demand.count:
            value = f"{demand.count} x ({demand.num_cpus:g} CPU, {demand.num_gpus:g} GPU)"
            rule = f"the cluster has room for {places} such processes"
            problems.append(Problem(demand.place, value, rule, "ask for less, or use a larger cluster", "WRPO-C028"))
    return problems


def _times(available: float, wanted: float) -> float:
    return available // wanted if wanted else float(2**31)


def require_room(config: FuseConfig) -> None:
    """Refuse what a local cluster can never hold, and warn about it elsewhere, where nodes may still join.

    Without this a run would wait for ever, since an engine that waits for its node is no failure to Ray.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if problems := unmet(demands(config), nodes):
        title = "the cluster is too small"
        if cluster_address(config.ray) == "local":
            raise ConfigError.of(title, problems, help="ray.num_cpus sets the logical CPUs of a local cluster")
        log.warning("%s\nthe run waits until nodes join", list_problems(title, problems))


def _shown_resources(resources: Mapping[str, float]) -> str:
    return ", ".join(f"{resources.get(name, 0):g} {name}" for name in ("CPU", "GPU"))
