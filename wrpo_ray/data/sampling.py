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
from wrpo_ray.data.shards import drop_other_files, run_shards, shard_path
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

    def __init__(self, model_json: str, prompts: str, run_seed: int, identity: str) -> None:
        from wrpo_ray.engines.vllm_generator import VllmGenerator

        self.prompts = {prompt.prompt_id: prompt for prompt in read_rows(Path(prompts), Prompt)}
        self.generator = VllmGenerator(ModelConfig.model_validate_json(model_json), run_seed, identity)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Write the responses of the one shard in `batch` and return its file."""
        path, prompt_ids = Path(str(batch["path"][0])), list(batch["prompt_ids"][0])
        responses = self.generator.generate([self.prompts[prompt_id] for prompt_id in prompt_ids])
        write_rows(path, responses, Response)
        return {"path": [str(path)]}

    def __del__(self) -> None:
        # Ray Data deletes the instance before it ends the actor; an engine's child processes would outlive it.
        if hasattr(self, "generator"):
            self.generator.close()


def sample(job: SamplingJob, folder: Path) -> Mapping[str, Any]:
    """Draw num_samples responses per prompt into `folder`/data and return the counts.

    A prompt that leaves no room for max_tokens in the model's context, or that its chat template refuses, gets no
    response; it is counted and named.
    """
    selected = [prompt for prompt in read_rows(job.prompts, Prompt) if prompt.split in job.splits]
    if not selected:
        raise DataError(f"no prompt of the splits {job.splits} for {job.model.name}; give more prompts")
    size = job.model.resources.prompts_per_shard
    cuts = [[prompt.prompt_id for prompt in selected[start : start + size]] for start in range(0, len(selected), size)]
    shards = {shard_path(folder.absolute(), number, " ".join(ids)): ids for number, ids in enumerate(cuts)}
    drop_other_files(folder.absolute(), list(shards))
    items = [{"path": str(path), "prompt_ids": ids} for path, ids in shards.items() if not path.exists()]
    arguments = {
        "model_json": job.model.model_dump_json(),
        "prompts": str(job.prompts.absolute()),
        "run_seed": job.run_seed,
        "identity": job.identity,
    }
    run_shards(SamplingActor, arguments, items, job.model.resources, f"sample {job.model.name}")
    return _counts(job, shards)


def _counts(job: SamplingJob, shards: Mapping[Path, Sequence[str]]) -> Mapping[str, Any]:
    reasons: Counter[str] = Counter()
    num_tokens = 0
    without: list[str] = []
    num_empty = 0
    for path, prompt_ids in shards.items():
        table = pq.read_table(path, columns=["prompt_id", "text", "finish_reason", "num_tokens"])
        per_prompt = Counter(table["prompt_id"].to_pylist())
        _require_all_samples(per_prompt, prompt_ids, job.model.sampling.num_samples)
        without += [prompt_id for prompt_id in prompt_ids if prompt_id not in per_prompt]
        num_empty += sum(not text.strip() for text in table["text"].to_pylist())
        reasons.update(table["finish_reason"].to_pylist())
        num_tokens += sum(table["num_tokens"].to_pylist())
    if without:
        shown = ", ".join(without[:_MAX_NAMED])
        reason = "too long for the model, or refused by its chat template"
        log.warning("sample %s: %d prompts have no response (%s): %s", job.model.name, len(without), reason, shown)
    return {
        "num_prompts": sum(len(ids) for ids in shards.values()),
        "num_prompts_without_response": len(without),
        "num_responses": sum(reasons.values()),
        "num_empty": num_empty,
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
