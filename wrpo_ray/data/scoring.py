"""Responses to scored responses: Ray Data fans files of responses out to reward actors."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from wrpo_ray.config import ResourcesConfig, RewardConfig, VerifierRewardConfig
from wrpo_ray.data.shards import run_shards, shard_path
from wrpo_ray.schema import Prompt, Response, ScoredResponse
from wrpo_ray.storage import FileEntry, parquet_entries, read_file, read_rows, write_rows

log = logging.getLogger(__name__)
_REWARD: TypeAdapter[RewardConfig] = TypeAdapter(RewardConfig)
# A rule costs next to nothing; it must not wait for a whole CPU beside an engine.
_VERIFIER_RESOURCES = ResourcesConfig(num_cpus=0.5)


class ScoringActor:
    """Holds one reward model; turns a file of responses into a file of scored responses."""

    def __init__(self, reward_json: str, prompts: str, responses: str, folder: str) -> None:
        from wrpo_ray.engines.scorers import load_scorer

        self.responses, self.folder = Path(responses), Path(folder)
        self.prompts = {prompt.prompt_id: prompt for prompt in read_rows(Path(prompts), Prompt)}
        self.scorer = load_scorer(_REWARD.validate_json(reward_json))

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Score the one file that `batch` names and return its number."""
        from wrpo_ray.engines.protocol import Answer

        number = int(batch["shard"][0])
        entry = FileEntry(
            str(batch["path"][0]), int(batch["num_bytes"][0]), str(batch["sha256"][0]), int(batch["num_rows"][0])
        )
        responses = read_file(self.responses, entry, Response)
        answers = [Answer(self.prompts[response.prompt_id], response.text) for response in responses]
        rewards = self.scorer.score(answers)
        scored = [_scored(response, reward) for response, reward in zip(responses, rewards, strict=True)]
        write_rows(shard_path(self.folder, number), scored, ScoredResponse)
        return {"shard": [number]}

    def __del__(self) -> None:
        if hasattr(self, "scorer"):
            self.scorer.close()


def score(reward: RewardConfig, prompts: Path, responses: Path, folder: Path) -> Mapping[str, Any]:
    """Score every response of the finished step in `responses` into `folder`/data and return the counts."""
    entries = parquet_entries(responses)
    items = [
        {
            "shard": number,
            "path": entry.path,
            "num_bytes": entry.num_bytes,
            "sha256": entry.sha256,
            "num_rows": entry.num_rows,
        }
        for number, entry in enumerate(entries)
        if not shard_path(folder, number).exists()
    ]
    arguments = {
        "reward_json": reward.model_dump_json(),
        "prompts": str(prompts.absolute()),
        "responses": str(responses.absolute()),
        "folder": str(folder.absolute()),
    }
    resources = _VERIFIER_RESOURCES if isinstance(reward, VerifierRewardConfig) else reward.resources
    run_shards(ScoringActor, arguments, items, resources, f"score {responses.parent.name}")
    return _counts(folder, len(entries))


def _scored(response: Response, reward: float) -> ScoredResponse:
    return ScoredResponse(
        prompt_id=response.prompt_id,
        source=response.source,
        sample_index=response.sample_index,
        text=response.text,
        finish_reason=response.finish_reason,
        num_tokens=response.num_tokens,
        reward=reward,
    )


def _counts(folder: Path, num_shards: int) -> Mapping[str, Any]:
    import pyarrow.parquet as pq

    rewards: list[float] = []
    for number in range(num_shards):
        rewards += pq.read_table(shard_path(folder, number), columns=["reward"])["reward"].to_pylist()
    finite = [reward for reward in rewards if math.isfinite(reward)]
    if len(finite) < len(rewards):
        log.warning(
            "%d of %d rewards are not finite; such responses are never chosen", len(rewards) - len(finite), len(rewards)
        )
    return {
        "num_responses": len(rewards),
        "num_not_finite": len(rewards) - len(finite),
        "mean_reward": sum(finite) / len(finite) if finite else None,
    }
