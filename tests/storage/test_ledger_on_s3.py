"""A step's whole life over S3 while three requests in ten fail: nothing is lost, nothing is doubled."""

from __future__ import annotations

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.storage.s3_server import Fault, S3Server
from wrpo_ray.schema import ScoredResponse, to_table
from wrpo_ray.storage.ledger import QuarantinedRow as Row
from wrpo_ray.storage.ledger import Shard, commit, finish, pending, planned
from wrpo_ray.storage.location import Location
from wrpo_ray.storage.manifest import Manifest, create_manifest, require_manifest
from wrpo_ray.storage.objects import ObjectStore
from wrpo_ray.storage.retries import RetryPolicy, retry_counts
from wrpo_ray.storage.tables import read_rows

_POLICY = RetryPolicy(budget_s=30.0, request_timeout_s=5.0, first_wait_s=0.005, longest_wait_s=0.05)
_ITEMS = [f"prompt-{number:03d}" for number in range(96)]
_POISON = {"prompt-005", "prompt-077"}
_FAULTS = [
    Fault("lost_reply", 0.08),
    Fault("lost_reply_500", 0.06),
    Fault("slow_down", 0.06),
    Fault("internal_error", 0.06),
    Fault("reset", 0.06),
    Fault("conflict", 0.1),
]


def _result(item: str, writer: int) -> ScoredResponse:
    return ScoredResponse(item, "first", 0, f"answer {writer}", "stop", len(item), float(item[-3:]))


def _work(folder: Location, shard: Shard, writer: int) -> None:
    rows = [_result(item, writer) for item in shard.items if item not in _POISON]
    bad = [Row(item, "engine_crash", 2, "signal 9") for item in shard.items if item in _POISON]
    table = to_table(rows, ScoredResponse)
    commit(folder, shard, table, [row.prompt_id for row in rows], bad, {"num_tokens": sum(r.num_tokens for r in rows)})


def _run(folder: Location, seed: int) -> Manifest:
    """What a driver does; two writers with other answers work on each shard, as if a lost worker came back."""
    shards = planned(folder, _ITEMS, items_per_shard=8)
    todo = [(shard, writer) for shard in pending(folder, shards) for writer in (1, 2)]
    random.Random(seed).shuffle(todo)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda work: _work(folder, *work), todo))
    done = finish(folder, shards)
    return create_manifest(
        folder, Manifest("score", folder.name, {}, {}, done.files, dict(done.counts), {"ray": "2"}, seconds=1.0)
    )


def _outcome(folder: Location) -> tuple[list[tuple[str, float]], int, dict[str, int]]:
    """Return rows without their writer, number of objects and counts, after writers and files have been checked."""
    manifest = require_manifest(folder)
    present = [place.relative_to(folder) for place in folder.walk()]
    assert [path for path in present if path.startswith(("data/", "quarantine/"))] == [f.path for f in manifest.files]
    rows = sorted(read_rows(folder, ScoredResponse), key=lambda row: row.prompt_id)
    for start in range(0, len(_ITEMS), 8):
        assert len({row.text for row in rows if row.prompt_id in _ITEMS[start : start + 8]}) == 1
    return [(row.prompt_id, row.reward) for row in rows], len(present), dict(manifest.summary)


@pytest.mark.parametrize("seed", range(3))
def test_a_step_survives_a_failing_store(s3: S3Server, seed: int) -> None:
    store = ObjectStore(f"s3://{s3.new_bucket()}", _POLICY)
    clean, faulty = Location(store, "runs/clean/f"), Location(store, "runs/faulty/f")
    _run(clean, seed)
    before = retry_counts()
    with s3.failing(*_FAULTS, seed=seed) as injected:
        first = _run(faulty, seed)
        assert _run(faulty, seed + 100) == first == require_manifest(faulty), "a second run finds all of it done"
        outcome = _outcome(faulty)

    assert outcome == _outcome(clean)
    assert Counter(prompt_id for prompt_id, _ in outcome[0]) + Counter(_POISON) == Counter(_ITEMS)
    assert {"lost_reply", "lost_reply_500", "slow_down", "internal_error", "reset"} <= set(injected)
    # A conflict over an object that is there after all is an answer, not a retry.
    assert (retry_counts() - before).total() >= injected.total() - injected["conflict"]
