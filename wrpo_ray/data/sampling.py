"""Prompts to responses of one model: Ray Data fans shards of prompts out to vLLM actors."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from wrpo_ray.config import ModelConfig
from wrpo_ray.data.shards import run_shards, shard_path
from wrpo_ray.errors import DataError
from wrpo_ray.schema import Prompt, Response, Split
from wrpo_ray.storage import read_rows, write_rows

log = logging.getLogger(__name__)
_MAX_NAMED = 10


@dataclass(frozen=True)
class SamplingJob:
    """What one sampling step draws: from which prompts, for which splits, seeded by what."""

    model: ModelConfig
    prompts: Path
    splits: tuple[Split, ...]
    run_seed: int
    identity: str


class SamplingActor:
    """Holds one engine; turns a shard of prompts into a file of responses."""

    def __init__(self, model_json: str, prompts: str, run_seed: int, identity: str, folder: str) -> None:
        from wrpo_ray.engines.vllm_generator import VllmGenerator

        self.folder = Path(folder)
        self.prompts = {prompt.prompt_id: prompt for prompt in read_rows(Path(prompts), Prompt)}
        self.generator = VllmGenerator(ModelConfig.model_validate_json(model_json), run_seed, identity)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Write the responses of the one shard in `batch` and return its number."""
        number, prompt_ids = int(batch["shard"][0]), list(batch["prompt_ids"][0])
        responses = self.generator.generate([self.prompts[prompt_id] for prompt_id in prompt_ids])
        write_rows(shard_path(self.folder, number), responses, Response)
        return {"shard": [number]}

    def __del__(self) -> None:
        # Ray Data deletes the instance before it ends the actor; an engine's child processes would outlive it.
        if hasattr(self, "generator"):
            self.generator.close()


def sample(job: SamplingJob, folder: Path) -> Mapping[str, Any]:
    """Draw num_samples responses per prompt into `folder`/data and return the counts.

    A prompt that leaves no room for max_tokens in the model's context gets no response; it is counted and named.
    """
    selected = [prompt for prompt in read_rows(job.prompts, Prompt) if prompt.split in job.splits]
    if not selected:
        raise DataError(f"no prompt of the splits {job.splits} for {job.model.name}; give more prompts")
    size = job.model.resources.prompts_per_shard
    shards = [
        [prompt.prompt_id for prompt in selected[start : start + size]] for start in range(0, len(selected), size)
    ]
    items = [
        {"shard": number, "prompt_ids": ids}
        for number, ids in enumerate(shards)
        if not shard_path(folder, number).exists()
    ]
    arguments = {
        "model_json": job.model.model_dump_json(),
        "prompts": str(job.prompts.absolute()),
        "run_seed": job.run_seed,
        "identity": job.identity,
        "folder": str(folder.absolute()),
    }
    run_shards(SamplingActor, arguments, items, job.model.resources, f"sample {job.model.name}")
    return _counts(job, folder, shards)


def _counts(job: SamplingJob, folder: Path, shards: Sequence[Sequence[str]]) -> Mapping[str, Any]:
    reasons: Counter[str] = Counter()
    num_tokens = 0
    without: list[str] = []
    for number, prompt_ids in enumerate(shards):
        table = pq.read_table(shard_path(folder, number), columns=["prompt_id", "finish_reason", "num_tokens"])
        per_prompt = Counter(table["prompt_id"].to_pylist())
        _require_all_samples(per_prompt, prompt_ids, job.model.sampling.num_samples)
        without += [prompt_id for prompt_id in prompt_ids if prompt_id not in per_prompt]
        reasons.update(table["finish_reason"].to_pylist())
        num_tokens += sum(table["num_tokens"].to_pylist())
    if without:
        shown = ", ".join(without[:_MAX_NAMED])
        log.warning("sample %s: %d prompts are too long for the model: %s", job.model.name, len(without), shown)
    return {
        "num_prompts": sum(len(ids) for ids in shards),
        "num_prompts_too_long": len(without),
        "num_responses": sum(reasons.values()),
        "num_tokens": num_tokens,
        "finish_reasons": dict(sorted(reasons.items())),
    }


def _require_all_samples(per_prompt: Mapping[str, int], prompt_ids: Sequence[str], num_samples: int) -> None:
    """Every prompt has all its samples or none, and nothing else is in the file."""
    expected = set(prompt_ids)
    wrong = [prompt_id for prompt_id, count in per_prompt.items() if count != num_samples or prompt_id not in expected]
    if wrong:
        raise DataError(
            f"{len(wrong)} prompts do not have {num_samples} responses each: {', '.join(wrong[:_MAX_NAMED])}"
        )
