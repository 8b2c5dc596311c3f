"""A source behind a real HTTP server, in the sampling step as a run does it: faults, a stop in the middle, a resume."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.endpoint import KEY, KEY_VARIABLE, Asked, Endpoint, Reply, echo, failure, serving
from wrpo_ray.config import OpenAISourceConfig, RowsConfig, SamplingConfig, VerifierRewardConfig
from wrpo_ray.config_endpoint import LimitsConfig
from wrpo_ray.data.sampling import SamplingJob, SamplingWorker, sample
from wrpo_ray.data.scoring import score
from wrpo_ray.errors import ModelError
from wrpo_ray.prompt_temperatures import with_temperatures
from wrpo_ray.schema import Prompt, Response, ScoredResponse, prompt_id
from wrpo_ray.steps import Step, StepResult, execute
from wrpo_ray.storage import ledger
from wrpo_ray.storage.location import Location, locate
from wrpo_ray.storage.manifest import RunLayout
from wrpo_ray.storage.tables import read_file, read_rows, write_rows

NUM_PROMPTS, NUM_SAMPLES, PROMPTS_PER_SHARD = 32, 2, 8
FILTERED = "question 5"
# A prompt that is answered at a temperature of its own.
COLD, OWN_TEMPERATURE = "question 6", 0.25


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with serving() as running:
        yield running


def job_of(endpoint: Endpoint, prompts: Location) -> SamplingJob:
    model = OpenAISourceConfig(
        name="gpt",
        type="openai",
        base_url=endpoint.url,
        model="small",
        api_key_env=KEY_VARIABLE,
        sampling=SamplingConfig(num_samples=NUM_SAMPLES, max_tokens=20),
        limits=LimitsConfig(requests_per_minute=60_000, tokens_per_minute=1_000_000, max_concurrent_requests=4),
        prompts_per_shard=PROMPTS_PER_SHARD,
        max_retries=2,
    )
    return SamplingJob(model, prompts, ("sft",), 7, "identity", rows=RowsConfig(max_rows=1))


def given_prompts(folder: Path) -> tuple[RunLayout, Step, list[Prompt]]:
    messages = [[{"role": "user", "content": f"question {number}"}] for number in range(NUM_PROMPTS)]
    prompts = sorted((Prompt(prompt_id(m), m, "sft", str(len(m))) for m in messages), key=lambda row: row.prompt_id)
    layout = RunLayout(locate(folder / "run"))
    own = {prompt.prompt_id: OWN_TEMPERATURE for prompt in prompts if prompt.messages[0]["content"] == COLD}

    def write(place: Location) -> StepResult:
        return with_temperatures(StepResult((write_rows(place, "data/p.parquet", prompts, Prompt),), {}), place, own)

    step = Step("prompts", {}, (), write)
    execute(step, layout, {})
    return layout, step, prompts


def faulty(asked: Asked, number: int) -> Reply:
    """One prompt is filtered, every fourth question is answered by its second try alone."""
    if asked.text == FILTERED:
        return failure(400, "content_filter", f"not allowed: {asked.text}")
    first = number == 1 and int(asked.text.split()[-1]) % 4 == 0
    return failure(429, "rate_limit_exceeded", retry_after_ms="20") if first else echo(asked)


def files_with(folder: Path, text: str) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


@pytest.mark.usefixtures("local_ray")
def test_sampling_from_an_endpoint(endpoint: Endpoint, tmp_path: Path) -> None:
    layout, given, prompts = given_prompts(tmp_path)
    job = job_of(endpoint, given.folder(layout))
    drawn = Step("sample-gpt", {}, (), lambda folder: sample(job, folder))
    # The key is taken back in the middle of the step.
    stop_after = 2 * PROMPTS_PER_SHARD * NUM_SAMPLES
    endpoint.answer = lambda asked, number: (
        failure(401, "invalid_api_key", f"Incorrect key {KEY}")
        if len(endpoint.asked) > stop_after + 10
        else faulty(asked, number)
    )
    with pytest.raises(ModelError, match="refuses the key") as raised:
        execute(drawn, layout, {})
    assert raised.value.code == "WRPO-E040"
    assert KEY not in str(raised.value)
    folder = drawn.folder(layout)
    done = ledger.read_commits(folder, sorted(ledger.committed(folder)))
    committed = {row.prompt_id for commit in done for row in read_file(folder, commit.file, Response)}
    assert 0 < len(committed) < NUM_PROMPTS - 1

    before = len(endpoint.asked)
    endpoint.answer = faulty
    summary = execute(drawn, layout, {}).summary
    questions = {prompt.prompt_id: prompt.messages[0]["content"] for prompt in prompts}
    again = {asked.text for asked in endpoint.asked[before:]}
    assert again.isdisjoint({questions[identity] for identity in committed})
    assert summary["quarantined"] == {"content_filtered": 1}
    assert summary["num_responses"] == (NUM_PROMPTS - 1) * NUM_SAMPLES
    assert summary["num_tokens"] == 3 * summary["num_responses"]
    assert summary["num_prompt_tokens"] == 7 * summary["num_responses"]
    assert summary["num_retries"] == summary["num_rate_limited"] > 0
    assert summary["num_requests"] >= summary["num_responses"] + summary["num_retries"]

    rows = read_rows(folder, Response)
    assert {(row.prompt_id, row.sample_index) for row in rows} == {
        (identity, index) for identity, text in questions.items() if text != FILTERED for index in range(NUM_SAMPLES)
    }
    assert all(row.text.endswith(questions[row.prompt_id]) and row.token_ids == [] for row in rows)
    assert len({row.text for row in rows}) == len(rows)
    assert endpoint.most_at_once <= 4
    temperatures = {(asked.text == COLD, asked.body["temperature"]) for asked in endpoint.asked}
    assert temperatures == {(True, OWN_TEMPERATURE), (False, job.model.sampling.temperature)}
    assert files_with(tmp_path, KEY) == []
    reward = VerifierRewardConfig(type="verifier", contained_reward=0.5)
    scored = Step("score-gpt", {}, (), lambda folder: score(
        reward, given.folder(layout), [drawn.folder(layout)], folder
    ))  # fmt: skip
    execute(scored, layout, {})
    assert len(read_rows(scored.folder(layout), ScoredResponse)) == len(rows)


def test_after_a_kill_only_what_is_missing_is_asked_for(endpoint: Endpoint, tmp_path: Path) -> None:
    """Two of four shards are committed when everything dies in the third; no Ray, the real worker and its engine."""
    layout, given, prompts = given_prompts(tmp_path)
    folder = locate(tmp_path / "step")
    job = job_of(endpoint, given.folder(layout))
    shards = ledger.planned(folder, [prompt.prompt_id for prompt in prompts], PROMPTS_PER_SHARD)

    def work(some: list[ledger.Shard]) -> None:
        worker = SamplingWorker(str(folder), str(job.prompts), job.model, job.faults, job.make, job.row_type)
        try:
            for shard in some:
                worker.commit(shard, {})
        finally:
            worker.engine.close()

    work(shards[:2])
    endpoint.answer = lambda asked, number: failure(401, "invalid_api_key") if len(endpoint.asked) > 40 else echo(asked)
    with pytest.raises(ModelError, match="refuses the key"):
        work(shards[2:])
    endpoint.asked.clear()
    endpoint.answer = lambda asked, number: echo(asked)
    missing = ledger.pending(folder, shards)
    assert missing == shards[2:]
    work(missing)
    questions = {prompt.prompt_id: prompt.messages[0]["content"] for prompt in prompts}
    wanted = Counter({questions[item]: NUM_SAMPLES for shard in missing for item in shard.items})
    assert Counter(asked.text for asked in endpoint.asked) == wanted
    finished = ledger.finish(folder, shards)
    assert finished.counts["num_responses"] == finished.counts["num_requests"] == NUM_PROMPTS * NUM_SAMPLES
