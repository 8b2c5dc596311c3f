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

from wrpo_ray.claims import scoring_resources
from wrpo_ray.config import FaultsConfig, RewardConfig, RowsConfig, VerifierRewardConfig
from wrpo_ray.data.in_flight import of_scoring
from wrpo_ray.data.model_files import bring
from wrpo_ray.data.prompt_reader import PromptReader
from wrpo_ray.data.reward_notes import MIN_ANSWERS_TO_DIFFER, RewardNotes, reward_notes
from wrpo_ray.data.sharded_work import ShardedWork
from wrpo_ray.data.shards import run_shards
from wrpo_ray.engines.protocol import Answer, Scorer, SetAside
from wrpo_ray.engines.scorers import load_scorer
from wrpo_ray.engines.supervisor import SupervisedEngine
from wrpo_ray.errors import ModelError
from wrpo_ray.schema import Response, ScoredResponse, to_table
from wrpo_ray.steps import StepResult
from wrpo_ray.storage import ledger
from wrpo_ray.storage.ledger import Commit, Finished, QuarantinedRow, Shard
from wrpo_ray.storage.location import Location, locate
from wrpo_ray.storage.manifest import FileEntry
from wrpo_ray.storage.tables import parquet_entries, read_file

log = logging.getLogger(__name__)
_NOT_FINITE = "reward_not_finite"
_LARGEST_REWARD = 3.4028234663852886e38


@dataclass(frozen=True)
class FileShard(Shard):
    """A file of responses as one shard, named by its content; its rows are the items, which its worker reads."""

    sha256: str
    num_rows: int

    @property
    def name(self) -> str:
        return Shard(self.number, (self.sha256,)).name

    @property
    def num_items(self) -> int:
        return self.num_rows


class ScoringWorker:
    """Turns a file of responses into a file of scored responses."""

    def __init__(
        self,
        folder: str,
        prompts: str,
        title: str,
        faults: FaultsConfig,
        make: Callable[[], Scorer],
        reward: RewardConfig | None = None,
    ) -> None:
        self.folder, self.title = locate(folder), title
        # Here and not in the engine: a download of hours must not count as its start.
        bring(reward)
        self.prompts = PromptReader(locate(prompts))
        self.engine = SupervisedEngine(make, "score", title, faults)

    def shard(self, description: dict[str, Any]) -> FileShard:
        """See data.shards.ShardWorker."""
        entry = FileEntry(**description["entry"])
        return FileShard(description["number"], (), entry.sha256, entry.num_rows or 0)

    def commit(self, shard: Shard, description: dict[str, Any]) -> Commit:
        """See data.shards.ShardWorker."""
        counts: Counter[str] = Counter(engine_starts=0)
        entry = FileEntry(**description["entry"])
        responses = {response_key(row): row for row in read_file(locate(description["step"]), entry, Response)}
        rewards = self._rewards(list(responses.values()), counts, shard.number)
        scored, set_aside = [], []
        for (key, response), reward in zip(responses.items(), rewards, strict=True):
            if isinstance(reward, SetAside):
                set_aside.append(QuarantinedRow(key, reward.code, reward.attempts, reward.error))
            else:
                scored.append(_scored(response, reward))
        done = set(responses) - {row.item for row in set_aside}
        counted = {"num_responses": len(scored)} | dict(counts)
        whole = dataclasses.replace(shard, items=tuple(responses))
        table, notes = to_table(scored, ScoredResponse), reward_notes(scored)
        return ledger.commit(self.folder, whole, table, done, set_aside, counted, notes)

    def _rewards(self, responses: Sequence[Response], counts: Counter[str], rank: int) -> list[float | SetAside]:
        asked = self.prompts.of(list(dict.fromkeys(response.prompt_id for response in responses)))
        by_id = {prompt.prompt_id: prompt for prompt in asked}
        answers = [Answer(by_id[response.prompt_id], response.text) for response in responses]
        rewards = self.engine.run(answers, counts, rank)
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
    try:
        number = float(reward)
    except OverflowError:
        number = math.inf
    # Reward models compute in 32 bits; sums of what is beyond them overflow.
    return number if abs(number) <= _LARGEST_REWARD else SetAside(_NOT_FINITE, f"the reward is {number}")


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
    shards = [FileShard(number, (), entry.sha256, entry.num_rows or 0) for number, (_, entry) in enumerate(files)]
    title = f"score {', '.join(step.key.split('/')[-2] for step in responses)}"
    num_rows = sum(shard.num_items for shard in shards)
    work = ShardedWork(
        title=title,
        folder=folder,
        shards=shards,
        num_rows=num_rows,
        shards_in_flight=of_scoring(reward, len(shards), num_rows),
        resources=scoring_resources(reward),
        faults=faults,
        rows=rows,
        describe=functools.partial(_describe, files),
        judge=functools.partial(_require_working_model, title, rows.max_reward_not_finite_fraction),
    )
    notes = RewardNotes()
    work = dataclasses.replace(work, on_commit=lambda commit: notes.add(_notes_of(folder, commit)))
    make = functools.partial(make_scorer, reward)
    arguments = {
        "folder": str(folder),
        "prompts": str(prompts),
        "title": title,
        "faults": faults,
        "make": make,
        "reward": reward,
    }
    finished = run_shards(work, ScoringWorker, arguments)
    return StepResult(finished.files, _summary(work, finished, reward, notes))


def _notes_of(folder: Location, commit: Commit) -> Mapping[str, Any]:
    """Commits of older versions have none."""
    return commit.notes or reward_notes(read_file(folder, commit.file, ScoredResponse))


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


def _summary(work: ShardedWork, finished: Finished, reward: RewardConfig, notes: RewardNotes) -> dict[str, Any]:
    if not isinstance(reward, VerifierRewardConfig) and notes.only_reward is not None:
        log.warning(
            "%s: all of at least %d different responses have the reward %g; the reward model tells nothing apart",
            work.title, MIN_ANSWERS_TO_DIFFER, notes.only_reward,
        )  # fmt: skip
    return {
        **finished.counts,
        "num_not_finite": finished.set_aside.get(_NOT_FINITE, 0),
        "num_distinct_rewards": notes.num_distinct,
        "mean_reward": notes.mean,
        "quarantined": dict(finished.set_aside),
    }
