"""Sampling of some samples of some prompts: what adaptive allocation asks for (see data.allocation)."""

from __future__ import annotations

from typing import Any

from wrpo_ray.data.in_flight import of_sampling
from wrpo_ray.data.prompt_ranges import described_shard, range_shards
from wrpo_ray.data.recent_tables import RecentTables
from wrpo_ray.data.requests import Requests
from wrpo_ray.data.sampling import SamplingJob, SamplingWorker, sampling_summary
from wrpo_ray.data.sharded_work import ShardedWork
from wrpo_ray.data.shards import run_shards
from wrpo_ray.engines.requests import RequestedPrompt
from wrpo_ray.schema import Prompt
from wrpo_ray.steps import StepResult
from wrpo_ray.storage.ledger import Shard
from wrpo_ray.storage.location import Location


class RequestedSamplingWorker(SamplingWorker):
    """Turns a shard of prompts into a file of the samples that are requested of them."""

    def __init__(self, requests: Requests, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.requests = RecentTables(requests.rows)

    def shard(self, description: dict[str, Any]) -> Shard:
        """See data.shards.ShardWorker."""
        return described_shard(description, self.requests.get(description["path"])["prompt_id"].to_pylist())

    def asked(self, shard: Shard, description: dict[str, Any]) -> list[Prompt]:
        """See SamplingWorker."""
        start, stop = description["start"], description["stop"]
        rows = self.requests.get(description["path"]).slice(start, stop - start).to_pylist()
        return [
            _requested(prompt, tuple(range(row["first_sample"], row["first_sample"] + row["num_samples"])))
            for prompt, row in zip(self.prompts.of(shard.items), rows, strict=True)
        ]


def _requested(prompt: Prompt, indices: tuple[int, ...]) -> RequestedPrompt:
    return RequestedPrompt(prompt.prompt_id, prompt.messages, prompt.split, prompt.answer, indices)


def sample_requested(job: SamplingJob, requests: Requests, folder: Location) -> StepResult:
    """Draw the samples in `requests` into `folder`/data; no engine is started when there are none.

    Prompts without a response are set aside as in data.sampling.sample; raises what data.shards.run_shards raises.
    """
    lists = requests.lists()
    shards, describe = range_shards(folder, lists, job.model.resources.prompts_per_shard)
    work = ShardedWork(
        title=f"sample {job.model.name}",
        folder=folder,
        shards=shards,
        num_rows=sum(each.num_items for each in lists),
        resources=job.model.resources,
        faults=job.faults,
        rows=job.rows,
        describe=describe,
        shards_in_flight=of_sampling(job.model, len(shards), sum(each.num_requests for each in lists)),
    )
    arguments = {
        "requests": requests, "folder": str(folder), "prompts": str(job.prompts), "model": job.model,
        "faults": job.faults, "make": job.make, "row_type": job.row_type,
    }  # fmt: skip
    finished = run_shards(work, RequestedSamplingWorker, arguments)
    return StepResult(finished.files, sampling_summary(work, finished))
