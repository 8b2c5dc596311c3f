"""The smoke fusion as a job on a cluster, with models and run in a bucket."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.clusters.machines import REPOSITORY
from tests.clusters.ray_cluster import RayCluster
from tests.clusters.site import Site, wait_until
from wrpo_ray.schema import Quadruple
from wrpo_ray.storage.location import Location, locate
from wrpo_ray.storage.tables import read_rows
from wrpo_ray.train.metrics import METRICS_FILE

_FUSE = ("python", "jobs/fuse.py", "--config", "jobs/configs/smoke.yaml")
_SMOKE = REPOSITORY / "jobs" / "smoke"
_SOURCE = "source-qwen2"
# Sampling in many small pieces and training in many steps, so that things can happen in between.
_SLOW = (
    *(
        f"{place}.{value}"
        for place in (f"sources.{_SOURCE}", "target")
        for value in ("sampling.max_tokens=32", "sampling.num_samples=4", "resources.prompts_per_shard=1")
    ),
    *(f"{step}.{value}" for step in ("sft", "wrpo") for value in ("num_epochs=4", "checkpoint_every_steps=1")),
    "model_defaults.engine.max_num_seqs=4",
    "run.lease_timeout_s=20",
)
# Of a machine's four CPUs, so that the two workers of a training lie on two machines.
_APART = (
    "ray.num_cpus=8",
    *(f"{step}.{value}" for step in ("sft", "wrpo") for value in ("num_workers=2", "num_cpus_per_worker=3")),
)
END_S = 1200.0


@dataclass(frozen=True)
class Result:
    """Quadruples, and the loss of each step of both trainings, bit for bit."""

    quadruples: list[Quadruple]
    losses: dict[str, list[str]]


def slow_fusion(site: Site, cluster: RayCluster, name: str) -> Fusion:
    """Return a fusion of one source, with its models in the bucket, that takes long enough for something to happen.

    Its trainings have a worker on each of two machines.
    """
    places = {each: site.upload(_SMOKE / each, f"models/{each}") for each in (_SOURCE, "target", "reward")}
    models = (
        f"sources=[{{name: {_SOURCE}, path: '{places[_SOURCE]}'}}]",
        f"target.path={places['target']}",
        f"reward.path={places['reward']}",
    )
    return Fusion(site, cluster, name, (*models, *_SLOW, *_APART))


@dataclass
class Fusion:
    """A run and the jobs that were submitted for it."""

    site: Site
    cluster: RayCluster
    name: str
    overrides: Sequence[str] = ()
    jobs: list[str] = field(default_factory=list)

    def start(self) -> None:
        """Submit the run, or submit it again."""
        self.jobs.append(f"{self.name}-{len(self.jobs) + 1}")
        where = (f"run.root=s3://{self.site.bucket}/runs", f"run.name={self.name}")
        self.cluster.submit(self.jobs[-1], [*_FUSE, *where, *self.overrides])

    def require_success(self) -> None:
        """Wait for the end of the last job, which must be a good one."""
        state = self.cluster.wait_for(self.jobs[-1], END_S)
        assert state == "SUCCEEDED", self.log()[-8000:]

    def log(self) -> str:
        """What the last job has printed."""
        return self.cluster.logs(self.jobs[-1])

    def wait_for_engine(self, step: str) -> str:
        """Wait until a step has an engine, and return the machine on which it is."""
        wait_until(lambda: bool(self._keys(step)), END_S, self.log)
        wait_until(lambda: self.cluster.with_engine() is not None, END_S, self.log)
        machine = self.cluster.with_engine()
        assert machine is not None, f"the engine of {step} has ended already"
        return machine

    def wait_for_commits(self, step: str, number: int = 1) -> None:
        """Wait until a step has committed so many shards; it must not be done."""
        wait_until(lambda: len(self._keys(step, "/commits/")) >= number, END_S, self.log)
        self._require_unfinished(step)

    def wait_for_checkpoint(self, step: str) -> None:
        """Wait until a training has stored a checkpoint; it must not be done."""
        wait_until(lambda: bool(self._keys(step, "/checkpoints/")), END_S, self.log)
        self._require_unfinished(step)

    def _require_unfinished(self, step: str) -> None:
        names = [key.split("/", 4)[4] for key in self._keys(step)]
        assert "manifest.json" not in names, f"{step} was too quick for this test"

    def _keys(self, step: str, part: str = "") -> list[str]:
        return self.site.keys(f"runs/{self.name}/{step}/", part)

    def folder(self, step: str) -> Location:
        """Return where a finished step lies."""
        above = locate(f"s3://{self.site.bucket}/runs/{self.name}/{step}")
        (fingerprint,) = {place.relative_to(above).split("/")[0] for place in above.walk()}
        return above / fingerprint

    def result(self) -> Result:
        """Return what the run gave."""
        losses = {}
        for step in ("sft", "wrpo"):
            lines = (self.folder(step) / METRICS_FILE).read_bytes().decode().splitlines()
            losses[step] = [float(json.loads(line)["loss"]).hex() for line in lines]
        return Result(read_rows(self.folder("fuse"), Quadruple), losses)

    def shard_rows(self, step: str) -> tuple[int, int]:
        """Return the rows of a sampling step, and how many of them are different requests."""
        import pyarrow.parquet as pq
        from pyarrow import BufferReader

        keys = []
        for place in (self.folder(step) / "data").walk():
            table = pq.read_table(BufferReader(place.read_bytes()), columns=["prompt_id", "sample_index"])
            keys += list(zip(*(table[name].to_pylist() for name in table.column_names), strict=True))
        return len(keys), len(set(keys))
