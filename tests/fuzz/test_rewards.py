"""Whatever a reward model, an endpoint or a judge gives: the reward of that very response, set aside, or an error."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import strategies as st

from tests.fuzz.case import fuzzed, outcome
from tests.fuzz.mutation import changed_bytes, changed_json, json_bytes
from wrpo_ray.config import FaultsConfig, OpenAISourceConfig, RowsConfig, VerifierRewardConfig
from wrpo_ray.data.scoring import FileShard, ScoringWorker, response_key
from wrpo_ray.engines.isolation import require_one_each
from wrpo_ray.engines.openai_reply import Completion, RetryLaterError, RowRefusedError, read_reply
from wrpo_ray.errors import ModelError, WrpoError
from wrpo_ray.judging import verdict
from wrpo_ray.prompt_layout import write_prompts
from wrpo_ray.schema import Prompt, Response, ScoredResponse, to_table
from wrpo_ray.selection import best_source, response_code, target_pair
from wrpo_ray.storage.location import Location, locate
from wrpo_ray.storage.manifest import Manifest, create_manifest
from wrpo_ray.storage.tables import read_file, write_rows
from wrpo_ray.verifier import last_number, verify

GOOD_REWARDS = st.one_of(st.floats(width=32, allow_nan=False, allow_infinity=False), st.integers(-1000, 1000))
NOT_FINITE = st.sampled_from([math.nan, math.inf, -math.inf, 1e39, -1e308, 10**400])
NO_NUMBERS = st.sampled_from([None, "0.5", [0.5], True, {}, b"1", 1j, object()])
REWARDS = st.one_of(
    st.lists(st.one_of(GOOD_REWARDS, GOOD_REWARDS, NOT_FINITE), min_size=6, max_size=6),
    st.lists(st.one_of(GOOD_REWARDS, NO_NUMBERS), min_size=5, max_size=7),
)
NUMBERS = itertools.count()
TEXTS = ["", " ", "\n", "one", "two", "\ufffd", "<|im_end|>", "\0"]


class Scores:
    """Stands for the supervised engine: gives what it was told to give."""

    def __init__(self, rewards: list[Any]) -> None:
        self.rewards = rewards

    def run(self, rows: list[Any], counts: Counter[str], rank: int) -> list[Any]:
        require_one_each(self.rewards, rows, "score")
        return self.rewards


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> ScoringWorker:
    folder = locate(tmp_path_factory.mktemp("scoring"))
    prompts = [Prompt(f"p{number}", [{"role": "user", "content": str(number)}], "sft", None) for number in range(3)]
    files = write_prompts(folder / "prompts", iter([to_table(prompts, Prompt)]))
    create_manifest(folder / "prompts", Manifest("prompts", "f", {}, {}, tuple(files), {}, {}, 0.1))
    return ScoringWorker(str(folder), str(folder / "prompts"), "score", FaultsConfig(), lambda: None)


RESPONSES = [
    Response(f"p{number}", "m", sample, TEXTS[number + 3 * sample], [1], "stop", 2)
    for number in range(3) for sample in range(2)
]  # fmt: skip


@fuzzed(60, rewards=REWARDS)
def test_each_response_gets_its_own_reward_or_is_set_aside(worker: ScoringWorker, rewards: list[Any]) -> None:
    base = worker.folder.key.partition("/case-")[0]
    worker.folder = folder = Location(worker.folder.store, base) / f"case-{next(NUMBERS)}"
    worker.engine = Scores(rewards)
    entry = write_rows(folder, "in.parquet", RESPONSES, Response)
    shard = FileShard(0, (), entry.sha256, len(RESPONSES))
    description = {"number": 0, "step": str(folder), "entry": dataclasses.asdict(entry)}
    found = outcome(lambda: worker.commit(shard, description))
    is_fault = len(rewards) != len(RESPONSES) or any(type(each) not in (int, float) for each in rewards)
    if is_fault:
        assert isinstance(found, ModelError)
        assert found.code in ("WRPO-E005", "WRPO-E007")
        assert not (folder / "commits").walk()
        return
    assert not isinstance(found, WrpoError)
    pairs = zip(RESPONSES, rewards, strict=True)
    expected = {response_key(row): float(reward) for row, reward in pairs if abs(reward) < 3.41e38}
    rows = read_file(folder, found.file, ScoredResponse)
    assert {f"{row.prompt_id}:{row.source}:{row.sample_index}": row.reward for row in rows} == expected
    assert {row.item for row in found.quarantined} == {*map(response_key, RESPONSES)} - set(expected)


SCORED = st.builds(
    ScoredResponse, prompt_id=st.just("p"), source=st.sampled_from(["a", "b"]), sample_index=st.integers(0, 3),
    text=st.sampled_from(TEXTS), finish_reason=st.sampled_from(["stop", "length"]), num_tokens=st.integers(0, 3),
    reward=st.one_of(st.sampled_from([0.0, -0.0, 1.0, math.nan, math.inf]), GOOD_REWARDS.map(float)),
)  # fmt: skip


@fuzzed(60, responses=st.lists(SCORED, max_size=8, unique_by=lambda row: (row.source, row.sample_index)),
        keep=st.booleans(), seed=st.integers(0, 9))  # fmt: skip
def test_what_is_chosen_is_the_best_and_what_is_rejected_the_worst(
    responses: list[ScoredResponse], keep: bool, seed: int
) -> None:
    policies = ("response_empty", "response_special_tokens_only", "response_cut")
    rows = RowsConfig(**dict.fromkeys(policies, "keep" if keep else "drop"))
    usable = [row for row in responses if (code := response_code(row)) is None or (keep and code in policies)]
    shuffled = random.Random(seed).sample(responses, len(responses))
    best, pair = best_source(responses, ["a", "b"], rows), target_pair(responses, rows)
    assert (best, pair) == (best_source(shuffled, ["a", "b"], rows), target_pair(shuffled, rows)) or len(
        {(row.reward, row.sample_index) for row in responses}
    ) < len(responses)
    rewards = [row.reward for row in usable]
    assert all(map(math.isfinite, rewards))
    assert (best is None) == (not usable)
    if best is not None:
        assert best.reward == max(rewards)
    if pair is not None:
        assert (pair.chosen.reward, pair.rejected.reward) == (max(rewards), min(rewards))
        assert pair.chosen.reward > pair.rejected.reward
        assert pair.chosen.text != pair.rejected.text


RULES = [
    VerifierRewardConfig(type="verifier", mode=mode, correct_reward=1.0, contained_reward=0.5)
    for mode in ("exact", "numeric")
]  # fmt: skip
ANSWERS = st.one_of(st.text("0123456789.,eE+- ab\u00b2\u0661\u0663\n\0\uff11", max_size=12), st.text(max_size=12))


@fuzzed(60, response=ANSWERS, answer=ANSWERS, rule=st.sampled_from(RULES))
def test_a_rule_gives_one_of_its_rewards(response: str, answer: str, rule: VerifierRewardConfig) -> None:
    reward = verify(response, answer, rule)
    assert reward in (1.0, 0.5, 0.0)
    if rule.mode == "numeric":
        said, expected = last_number(response), last_number(answer)
        near = said is not None and expected is not None and math.isclose(said, expected, rel_tol=2e-6, abs_tol=2e-6)
        assert reward == 0.0 or near
    assert verify(answer, answer, rule) == (1.0 if rule.mode == "exact" or last_number(answer) is not None else 0.0)


@fuzzed(30, reply=st.text("[]ABCabc \n\r\u2028x", max_size=20))
def test_a_verdict_is_the_last_line_or_none(reply: str) -> None:
    last = reply.strip().splitlines()[-1].strip() if reply.strip() else ""
    assert verdict(reply) == {"[[A]]": "first", "[[B]]": "second", "[[C]]": "tie"}.get(last)


def check_wait(seconds: float | None) -> None:
    assert seconds is None or 0 <= seconds < math.inf


SOURCE = OpenAISourceConfig(name="s", type="openai", base_url="https://host/v1", model="m")
REPLIES = [
    {"id": "x", "usage": {"prompt_tokens": 3, "completion_tokens": 2},
     "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hi"}}]},
    {"error": {"message": "no", "type": "invalid", "code": "content_filter", "innererror": {"code": "x"}}},
]  # fmt: skip
WAITS = st.one_of(
    st.sampled_from(["5", "soon", "-1", "nan", "1e400", "", "Wed, 21 Oct 2015 07:28:00 GMT", "1 Jan 10000 0:0:0",
                     "Wed, 21 Oct 99999999999999 07:28:00 GMT", "Mon, 1 Jan 0001 00:00:00 -2359"]),
    st.text("0123456789 :,-+GMTWedOct", max_size=30),
)  # fmt: skip
BODIES = st.one_of(
    changed_json(REPLIES).map(json_bytes), changed_json(REPLIES).map(json_bytes),
    changed_bytes([json_bytes(reply) for reply in REPLIES]), st.just(b"[" * 100_000), st.just(b'{"error":' * 9999),
)  # fmt: skip


@fuzzed(60, status=st.sampled_from([200, 200, 200, 301, 400, 401, 402, 404, 422, 429, 500]), body=BODIES, wait=WAITS)
def test_a_reply_is_a_completion_or_a_reason_why_not(status: int, body: bytes, wait: str) -> None:
    try:
        found = outcome(lambda: read_reply(status, {"retry-after": wait}, body, SOURCE))
    except RetryLaterError as later:
        later.reason.encode("utf-8")
        check_wait(later.after_s)
    except RowRefusedError as refused:
        f"{refused.reason} {refused.told}".encode()
    else:
        assert isinstance(found, Completion | ModelError)
        if isinstance(found, Completion):
            assert status == 200
            found.text.encode("utf-8")
            assert all(count is None or 0 <= count < 2**31 for count in found[2:])
