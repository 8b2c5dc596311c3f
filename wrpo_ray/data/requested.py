"""Sampling of some samples of some prompts: what adaptive allocation asks for (see data.allocation)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from wrpo_ray.config import SourceConfig
from wrpo_ray.data.sampling import SamplingJob, SamplingWorker, response_counts
from wrpo_ray.data.sharded_work import ShardedWork
from wrpo_ray.data.shards import run_shards
from wrpo_ray.engines.protocol import SetAside
from wrpo_ray.engines.requests import RequestedPrompt
from wrpo_ray.errors import ModelError
from wrpo_ray.schema import Prompt, Response, to_table
from wrpo_ray.steps import StepResult
from wrpo_ray.storage import ledger
from wrpo_ray.storage.ledger import Commit, QuarantinedRow, Shard
from wrpo_ray.storage.location import Location

_REASON = "finish_reason:"


class RequestedSamplingWorker(SamplingWorker):
    """Turns a shard of prompts into a file of the samples that its description asks for."""

    def commit(self, shard: Shard, description: dict[str, Any]) -> Commit:
        """See data.shards.ShardWorker."""
        started_before = self.engine.num_starts
        wanted = dict(zip(shard.items, map(tuple, description["samples"]), strict=True))
        asked = [_requested(self.prompts[item], wanted[item]) for item in shard.items]
        outcomes = dict(zip(shard.items, self.engine.run(asked), strict=True))
        set_aside = [
            QuarantinedRow(item, outcome.code, outcome.attempts, outcome.error)
            for item, outcome in outcomes.items()
            if isinstance(outcome, SetAside)
        ]
        drawn = {item: outcome for item, outcome in outcomes.items() if not isinstance(outcome, SetAside)}
        require_requested_samples(self.model, wanted, drawn)
        responses = [response for group in drawn.values() for response in group]
        counts = response_counts(responses) | self.engine.take_counts()
        counts |= {"engine_starts": self.engine.num_starts - started_before}
        return ledger.commit(self.folder, shard, to_table(responses, self.row_type), drawn, set_aside, counts)


def _requested(prompt: Prompt, indices: tuple[int, ...]) -> RequestedPrompt:
    return RequestedPrompt(prompt.prompt_id, prompt.messages, prompt.split, prompt.answer, indices)


def require_requested_samples(
    model: SourceConfig, wanted: Mapping[str, tuple[int, ...]], drawn: Mapping[str, Sequence[Response]]
) -> None:
    """Raise ModelError unless each prompt has its own responses, those that were asked for and in that order."""
    for prompt_id, responses in drawn.items():
        found = tuple(response.sample_index for response in responses if response.prompt_id == prompt_id)
        if found != wanted[prompt_id] or len(found) != len(responses):
            raise ModelError(
                f"sample {model.name}: the engine gave the samples {found} of prompt {prompt_id}, {wanted[prompt_id]}"
                " were asked for",
                code="WRPO-E006",
                help="this is a fault of the engine, not of the prompts; nothing of this shard was stored",
            )


def sample_requested(job: SamplingJob, requests: Mapping[str, range], folder: Location) -> StepResult:
    """Draw the samples in `requests`, by prompt_id, into `folder`/data; no engine is started when there are none.

    Prompts without a response are set aside as in data.sampling.sample; raises what data.shards.run_shards raises.
    """
    per_shard = job.model.resources.prompts_per_shard
    work = ShardedWork(
        title=f"sample {job.model.name}",
        folder=folder,
        shards=ledger.planned(folder, list(requests), per_shard),
        num_rows=len(requests),
        resources=job.model.resources,
        faults=job.faults,
        rows=job.rows,
        describe=partial(_describe, requests),
    )
    arguments = {
        "folder": str(folder), "prompts": str(job.prompts), "model": job.model, "faults": job.faults,
        "make": job.make, "row_type": job.row_type,
    }  # fmt: skip
    finished = run_shards(work, RequestedSamplingWorker, arguments)
    counts = dict(finished.counts)
    reasons = {name.removeprefix(_REASON): counts.pop(name) for name in list(counts) if name.startswith(_REASON)}
    summary = {
        "num_prompts": work.num_rows,
        "num_prompts_without_response": len(finished.quarantined),
        "quarantined": dict(sorted(Counter(row.code for row in finished.quarantined).items())),
        "finish_reasons": dict(sorted(reasons.items())),
        **counts,
    }
    return StepResult(finished.files, summary)


def _describe(requests: Mapping[str, range], shard: Shard) -> dict[str, Any]:
    samples = [list(requests[item]) for item in shard.items]
    return {"number": shard.number, "prompt_ids": shard.items, "samples": samples}
