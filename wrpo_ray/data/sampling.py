"""Prompts to responses of one model: Ray Data fans shards of prompts out to supervised engines."""

from __future__ import annotations

import functools
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from wrpo_ray.config import FaultsConfig, RowsConfig, SourceConfig
from wrpo_ray.data.in_flight import of_sampling
from wrpo_ray.data.model_files import bring
from wrpo_ray.data.prompt_ranges import described_shard, lists_of_splits, range_shards
from wrpo_ray.data.prompt_reader import PromptReader
from wrpo_ray.data.sharded_work import ShardedWork
from wrpo_ray.data.shards import run_shards
from wrpo_ray.engines.generators import load_generator
from wrpo_ray.engines.protocol import Generator, SetAside
from wrpo_ray.engines.requests import sample_indices, tempered
from wrpo_ray.engines.supervisor import SupervisedEngine
from wrpo_ray.errors import DataError, ModelError
from wrpo_ray.prompt_temperatures import read_temperatures
from wrpo_ray.schema import Prompt, Response, ResponseWithLogps, Split, to_table
from wrpo_ray.steps import StepResult
from wrpo_ray.storage import ledger
from wrpo_ray.storage.ledger import Commit, Finished, QuarantinedRow, Shard
from wrpo_ray.storage.location import Location, locate

log = logging.getLogger(__name__)
_MAX_NAMED = 10
_REASON = "finish_reason:"


@dataclass(frozen=True)
class SamplingJob:
    """What one sampling step draws: from which prompts, for which splits, seeded by what.

    make_generator: module-level callable of (model, run_seed, identity), and of with_logps when that is set.
    with_logps: keep the log-prob of each response, as ResponseWithLogps.
    """

    model: SourceConfig
    prompts: Location
    splits: tuple[Split, ...]
    run_seed: int
    identity: str
    faults: FaultsConfig = field(default_factory=FaultsConfig)
    rows: RowsConfig = field(default_factory=RowsConfig)
    make_generator: Callable[..., Generator] = load_generator
    with_logps: bool = False

    @property
    def make(self) -> Callable[[], Generator]:
        """Starts the engine; picklable."""
        extra = {"with_logps": True} if self.with_logps else {}
        return functools.partial(self.make_generator, self.model, self.run_seed, self.identity, **extra)

    @property
    def row_type(self) -> type[Response]:
        """What the rows of the step are."""
        return ResponseWithLogps if self.with_logps else Response


class SamplingWorker:
    """Turns a shard of prompts into a file of responses; temperatures: of prompts that have their own, by prompt_id."""

    def __init__(
        self,
        folder: str,
        prompts: str,
        model: SourceConfig,
        faults: FaultsConfig,
        make: Callable[[], Generator],
        row_type: type[Response],
        temperatures: Mapping[str, float] | None = None,
    ) -> None:
        self.folder, self.model, self.row_type = locate(folder), model, row_type
        self.temperatures = temperatures or {}
        # Here and not in the engine: a download of hours must not count as its start.
        bring(model)
        self.prompts = PromptReader(locate(prompts))
        self.engine = SupervisedEngine(make, "generate", f"sample {model.name}", faults)

    def shard(self, description: dict[str, Any]) -> Shard:
        """See data.shards.ShardWorker."""
        return described_shard(description, self.prompts.ids(description["path"], description["splits"]))

    def commit(self, shard: Shard, description: dict[str, Any]) -> Commit:
        """See data.shards.ShardWorker."""
        counts: Counter[str] = Counter(engine_starts=0)
        asked = self.asked(shard, description)
        outcomes = dict(zip(shard.items, self.engine.run(asked, counts, shard.number), strict=True))
        set_aside = [
            QuarantinedRow(item, outcome.code, outcome.attempts, outcome.error)
            for item, outcome in outcomes.items()
            if isinstance(outcome, SetAside)
        ]
        drawn = {item: outcome for item, outcome in outcomes.items() if not isinstance(outcome, SetAside)}
        require_all_samples(self.model, asked, drawn)
        responses = [response for group in drawn.values() for response in group]
        counted = response_counts(responses) | dict(counts)
        return ledger.commit(self.folder, shard, to_table(responses, self.row_type), drawn, set_aside, counted)

    def asked(self, shard: Shard, description: dict[str, Any]) -> list[Prompt]:
        """Return the prompts of the shard, in its order."""
        own = self.temperatures
        return [
            tempered(prompt, own[prompt.prompt_id]) if prompt.prompt_id in own else prompt
            for prompt in self.prompts.of(shard.items)
        ]


def require_all_samples(model: SourceConfig, asked: Sequence[Prompt], drawn: Mapping[str, Sequence[Response]]) -> None:
    """Raise ModelError unless each prompt in `drawn` has its own responses, one per sample asked for, in that order."""
    expected = {
        prompt.prompt_id: [(prompt.prompt_id, index) for index in sample_indices(prompt, model.sampling.num_samples)]
        for prompt in asked
    }
    wrong = [
        prompt_id
        for prompt_id, responses in drawn.items()
        if [(response.prompt_id, response.sample_index) for response in responses] != expected[prompt_id]
    ]
    if wrong:
        found, wanted = len(drawn[wrong[0]]), len(expected[wrong[0]])
        raise ModelError(
            f"sample {model.name}: the engine gave {found} responses to prompt {wrong[0]}, {wanted} were asked"
            f" for; {len(wrong)} prompts are wrong: {', '.join(wrong[:_MAX_NAMED])}",
            code="WRPO-E006",
            help="this is a fault of the engine, not of the prompts; nothing of this shard was stored",
        )


def response_counts(responses: Sequence[Response]) -> dict[str, int]:
    """Return the numbers of some responses that the step adds up."""
    reasons = Counter(f"{_REASON}{response.finish_reason}" for response in responses)
    return {
        "num_responses": len(responses),
        "num_tokens": sum(response.num_tokens for response in responses),
        "num_empty": sum(not response.text.strip() for response in responses),
        **reasons,
    }


def sample(job: SamplingJob, folder: Location) -> StepResult:
    """Draw num_samples responses per prompt into `folder`/data.

    A prompt without responses (too long, refused by the chat template, or fatal to the engine) is set aside with its
    code. Raises DataError when there is no prompt, and what data.shards.run_shards raises.
    """
    num_samples = job.model.sampling.num_samples
    lists = lists_of_splits(job.prompts, job.splits, num_samples)
    if not lists:
        raise DataError(
            f"no prompt of the splits {', '.join(job.splits)} for {job.model.name}",
            code="WRPO-D020",
            help="give more prompts, or change prompts.sft_fraction",
        )
    shards, describe = range_shards(folder, lists, job.model.resources.prompts_per_shard)
    num_prompts = sum(each.num_items for each in lists)
    work = ShardedWork(
        title=f"sample {job.model.name}",
        folder=folder,
        shards=shards,
        num_rows=num_prompts,
        resources=job.model.resources,
        faults=job.faults,
        rows=job.rows,
        describe=lambda shard: describe(shard) | {"splits": list(job.splits)},
        shards_in_flight=of_sampling(job.model, len(shards), num_prompts * num_samples),
    )
    arguments = {
        "folder": str(folder),
        "prompts": str(job.prompts),
        "model": job.model,
        "faults": job.faults,
        "make": job.make,
        "row_type": job.row_type,
        "temperatures": read_temperatures(job.prompts),
    }
    finished = run_shards(work, SamplingWorker, arguments)
    summary = sampling_summary(work, finished)
    if finished.num_set_aside == work.num_rows:
        raise ModelError(
            f"{work.title}: none of the {work.num_rows} prompts has a response: {summary['quarantined']}",
            code="WRPO-M031",
            help=f"{folder}/quarantine says why, prompt by prompt; for prompts that are too long raise"
            " engine.max_model_len or lower sampling.max_tokens",
        )
    return StepResult(finished.files, summary)


def sampling_summary(work: ShardedWork, finished: Finished) -> dict[str, Any]:
    """Return what a sampling step says of itself.

    prefix_cache_hit_rate: share of the prompt tokens of all requests that the engine did not compute again.
    """
    if finished.num_set_aside:
        shown = ", ".join(row.item for row in finished.first_set_aside)
        log.warning("%s: %d prompts have no response: %s", work.title, finished.num_set_aside, shown)
    counts = dict(finished.counts)
    reasons = {name.removeprefix(_REASON): counts.pop(name) for name in list(counts) if name.startswith(_REASON)}
    return {
        "num_prompts": work.num_rows,
        "num_prompts_without_response": finished.num_set_aside,
        "quarantined": dict(finished.set_aside),
        "finish_reasons": dict(sorted(reasons.items())),
        **counts,
        **_hit_rate(counts),
    }


def _hit_rate(counts: Mapping[str, int]) -> dict[str, float]:
    cached, num_tokens = counts.get("num_cached_prompt_tokens"), counts.get("num_prompt_tokens")
    return {} if cached is None or not num_tokens else {"prefix_cache_hit_rate": round(cached / num_tokens, 4)}
