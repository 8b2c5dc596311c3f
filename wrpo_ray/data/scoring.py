"""Responses to scored responses: Ray Data fans files of responses out to supervised reward models."""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from wrpo_ray.config import FaultsConfig, ResourcesConfig, RewardConfig, RowsConfig, VerifierRewardConfig
from wrpo_ray.data.sharded_work import ShardedWork
from wrpo_ray.data.shards import run_shards
from wrpo_ray.engines.protocol import Answer, Scorer, SetAside
from wrpo_ray.engines.scorers import load_scorer
from wrpo_ray.engines.supervisor import SupervisedEngine
from wrpo_ray.errors import ModelError
from wrpo_ray.schema import Prompt, Response, ScoredResponse, to_table
from wrpo_ray.steps import StepResult
from wrpo_ray.storage import ledger
from wrpo_ray.storage.ledger import Commit, Finished, QuarantinedRow, Shard
from wrpo_ray.storage.location import Location, locate
from wrpo_ray.storage.manifest import FileEntry
from wrpo_ray.storage.tables import parquet_entries, read_file, read_rows, read_verified

log = logging.getLogger(__name__)
# A rule costs next to nothing; it must not wait for a whole CPU beside an engine.
_VERIFIER_RESOURCES = ResourcesConfig(num_cpus=0.5)
_NOT_FINITE = "reward_not_finite"
# Fewer different answers may share a reward by chance or rounding.
_MIN_ANSWERS_TO_DIFFER = 32


@dataclass(frozen=True)
class FileShard(Shard):
    """A file of responses as one shard: named by its content, with its rows as items."""

    sha256: str

    @property
    def name(self) -> str:
        return Shard(self.number, (self.sha256,)).name


class ScoringWorker:
    """Turns a file of responses into a file of scored responses."""

    def __init__(self, folder: str, prompts: str, title: str, faults: FaultsConfig, make: Callable[[], Scorer]) -> None:
        self.folder, self.title = locate(folder), title
        self.prompts = {prompt.prompt_id: prompt for prompt in read_rows(locate(prompts), Prompt)}
        self.engine = SupervisedEngine(make, "score", title, faults)

    def shard(self, description: dict[str, Any]) -> FileShard:
        """See data.shards.ShardWorker."""
        return FileShard(description["number"], (), description["entry"]["sha256"])

    def commit(self, shard: Shard, description: dict[str, Any]) -> Commit:
        """See data.shards.ShardWorker."""
        started_before = self.engine.num_starts
        entry = FileEntry(**description["entry"])
        responses = {response_key(row): row for row in read_file(locate(description["step"]), entry, Response)}
        rewards = self._rewards(list(responses.values()))
        scored, set_aside = [], []
        for (key, response), reward in zip(responses.items(), rewards, strict=True):
            if isinstance(reward, SetAside):
                set_aside.append(QuarantinedRow(key, reward.code, reward.attempts, reward.error))
            else:
                scored.append(_scored(response, reward))
        done = set(responses) - {row.item for row in set_aside}
        counts = {"num_responses": len(scored), "engine_starts": self.engine.num_starts - started_before}
        whole = dataclasses.replace(shard, items=tuple(responses))
        return ledger.commit(self.folder, whole, to_table(scored, ScoredResponse), done, set_aside, counts)

    def _rewards(self, responses: Sequence[Response]) -> list[float | SetAside]:
        answers = [Answer(self.prompts[response.prompt_id], response.text) for response in responses]
        rewards = self.engine.run(answers)
        return [reward if isinstance(reward, SetAside) else finite_reward(reward, self.title) for reward in rewards]


def response_key(response: Response) -> str:
    """Return what names a response in the ledger: prompt_id:source:sample_index."""
    return f"{response.prompt_id}:{response.source}:{response.sample_index}"


def finite_reward(reward: object, title: str) -> float | SetAside:
    """Return a reward, or why it is none; raises ModelError when it is no number at all."""
    if isinstance(reward, bool) or not isinstance(reward, (int, float)):
        raise ModelError(
            f"{title}: the reward model gave a {type(reward).__name__} as a reward, a number was asked for",
            code="WRPO-E007",
            help="this is a fault of the scorer, not of the responses; nothing of this shard was stored",
        )
    return float(reward) if math.isfinite(reward) else SetAside(_NOT_FINITE, f"the reward is {reward}")


def score(
    reward: RewardConfig,
    prompts: Location,
    responses: Sequence[Location],
    folder: Location,
    faults: FaultsConfig | None = None,
    rows: RowsConfig | None = None,
    make_scorer: Callable[[RewardConfig], Scorer] = load_scorer,
) -> StepResult:
    """Score every response of the finished steps in `responses` into `folder`/data.

    A response without a finite reward is set aside with its code; none is scored twice. Raises ModelError when more
    rewards are not finite than `rows` allows, and what data.shards.run_shards raises.
    """
    faults, rows = faults or FaultsConfig(), rows or RowsConfig()
    files = [(step, entry) for step in responses for entry in parquet_entries(step)]
    digest = ledger.items_digest(entry.sha256 for _, entry in files)
    ledger.stored_plan(folder, digest, [entry.num_rows or 0 for _, entry in files])
    shards = [
        FileShard(number, (entry.sha256,) * (entry.num_rows or 0), entry.sha256)
        for number, (_, entry) in enumerate(files)
    ]
    title = f"score {', '.join(step.key.split('/')[-2] for step in responses)}"
    work = ShardedWork(
        title=title,
        folder=folder,
        shards=shards,
        num_rows=sum(len(shard.items) for shard in shards),
        resources=_VERIFIER_RESOURCES if isinstance(reward, VerifierRewardConfig) else reward.resources,
        faults=faults,
        rows=rows,
        describe=functools.partial(_describe, files),
        judge=functools.partial(_require_working_model, title, rows.max_reward_not_finite_fraction),
    )
    make = functools.partial(make_scorer, reward)
    arguments = {"folder": str(folder), "prompts": str(prompts), "title": title, "faults": faults, "make": make}
    finished = run_shards(work, ScoringWorker, arguments)
    return StepResult(finished.files, _summary(work, finished, reward))


def _describe(files: Sequence[tuple[Location, FileEntry]], shard: Shard) -> dict[str, Any]:
    step, entry = files[shard.number]
    return {"number": shard.number, "step": str(step), "entry": dataclasses.asdict(entry)}


def _require_working_model(title: str, max_fraction: float, num_rows: int, codes: Mapping[str, int]) -> None:
    not_finite = codes.get(_NOT_FINITE, 0)
    if not_finite > max_fraction * num_rows:
        raise ModelError(
            f"{title}: the reward model is broken: {not_finite} of {num_rows} rewards are not finite, "
            f"at most {max_fraction:g} of them may be (rows.max_reward_not_finite_fraction)",
            code="WRPO-M030",
            help="check its dtype (float16 overflows where bfloat16 does not), its files and reward.score_field",
        )


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


def _summary(work: ShardedWork, finished: Finished, reward: RewardConfig) -> dict[str, Any]:
    rewards, num_texts = _rewards_of(work.folder, finished.files)
    num_distinct = int(np.unique(rewards).size)
    if not isinstance(reward, VerifierRewardConfig) and num_distinct == 1 and num_texts >= _MIN_ANSWERS_TO_DIFFER:
        log.warning(
            "%s: all of %d different responses have the reward %g; the reward model tells nothing apart",
            work.title, num_texts, rewards[0],
        )  # fmt: skip
    codes = Counter(row.code for row in finished.quarantined)
    return {
        **finished.counts,
        "num_not_finite": codes[_NOT_FINITE],
        "num_distinct_rewards": num_distinct,
        "mean_reward": math.fsum(rewards) / len(rewards) if len(rewards) else None,
        "quarantined": dict(sorted(codes.items())),
    }


def _rewards_of(folder: Location, files: Sequence[FileEntry]) -> tuple[np.ndarray, int]:
    """Return all rewards, and how many different texts were seen, counted up to the number that matters."""
    columns = pa.schema([ScoredResponse.SCHEMA.field(name) for name in ("text", "reward")])
    rewards: list[np.ndarray] = []
    texts: set[str] = set()
    for entry in files:
        if entry.num_rows is not None:
            table = read_verified(folder, entry, columns)
            rewards.append(table["reward"].to_numpy())
            if len(texts) < _MIN_ANSWERS_TO_DIFFER:
                texts.update(table["text"].to_pylist())
    return np.concatenate(rewards) if rewards else np.zeros(0), len(texts)
