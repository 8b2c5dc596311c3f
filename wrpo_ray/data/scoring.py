"""Responses to scored responses: Ray Data fans files of responses out to reward actors."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from wrpo_ray.config import ResourcesConfig, RewardConfig, VerifierRewardConfig
from wrpo_ray.data.shards import drop_other_files, run_shards, shard_path
from wrpo_ray.schema import Prompt, Response, ScoredResponse
from wrpo_ray.storage import FileEntry, parquet_entries, read_file, read_rows, write_rows

log = logging.getLogger(__name__)
_REWARD: TypeAdapter[RewardConfig] = TypeAdapter(RewardConfig)
# A rule costs next to nothing; it must not wait for a whole CPU beside an engine.
_VERIFIER_RESOURCES = ResourcesConfig(num_cpus=0.5)


class ScoringActor:
    """Holds one reward model; turns a file of responses into a file of scored responses."""

    def __init__(self, reward_json: str, prompts: str) -> None:
        from wrpo_ray.engines.scorers import load_scorer

        self.prompts = {prompt.prompt_id: prompt for prompt in read_rows(Path(prompts), Prompt)}
        self.scorer = load_scorer(_REWARD.validate_json(reward_json))

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Score the one file that `batch` names and return the file that it wrote."""
        from wrpo_ray.engines.protocol import Answer

        item = {name: values[0] for name, values in batch.items()}
        entry = FileEntry(str(item["path"]), int(item["num_bytes"]), str(item["sha256"]), int(item["num_rows"]))
        responses = read_file(Path(str(item["step"])), entry, Response)
        answers = [Answer(self.prompts[response.prompt_id], response.text) for response in responses]
        rewards = self.scorer.score(answers)
        scored = [_scored(response, reward) for response, reward in zip(responses, rewards, strict=True)]
        write_rows(Path(str(item["target"])), scored, ScoredResponse)
        return {"target": [str(item["target"])]}

    def __del__(self) -> None:
        if hasattr(self, "scorer"):
            self.scorer.close()


def score(reward: RewardConfig, prompts: Path, responses: Sequence[Path], folder: Path) -> Mapping[str, Any]:
    """Score every response of the finished steps in `responses` into `folder`/data and return the counts."""
    files = [(step, entry) for step in responses for entry in parquet_entries(step)]
    targets = [shard_path(folder.absolute(), number, entry.sha256) for number, (_, entry) in enumerate(files)]
    drop_other_files(folder.absolute(), targets)
    items = [
        {"target": str(target), "step": str(step.absolute()), **dataclasses.asdict(entry)}
        for target, (step, entry) in zip(targets, files, strict=True)
        if not target.exists()
    ]
    arguments = {
        "reward_json": reward.model_dump_json(),
        "prompts": str(prompts.absolute()),
    }
    resources = _VERIFIER_RESOURCES if isinstance(reward, VerifierRewardConfig) else reward.resources
    run_shards(ScoringActor, arguments, items, resources, f"score {', '.join(step.parent.name for step in responses)}")
    return _counts(targets)


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


def _counts(paths: Sequence[Path]) -> Mapping[str, Any]:
    import pyarrow.parquet as pq

    rewards: list[float] = []
    for path in paths:
        rewards += pq.read_table(path, columns=["reward"])["reward"].to_pylist()
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
