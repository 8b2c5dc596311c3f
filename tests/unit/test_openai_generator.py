"""The generator against a real HTTP server: what is asked, what each kind of failure comes to, and what is counted."""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.endpoint import KEY, KEY_VARIABLE, Asked, Endpoint, Reply, completion, echo, failure, serving
from wrpo_ray.config import OpenAISourceConfig, SamplingConfig
from wrpo_ray.config_endpoint import LimitsConfig
from wrpo_ray.engines.openai_generator import OpenAIGenerator
from wrpo_ray.engines.openai_reply import read_reply, retry_after_s
from wrpo_ray.engines.protocol import SetAside
from wrpo_ray.engines.requests import tempered
from wrpo_ray.engines.vllm_generator import request_seed
from wrpo_ray.errors import ModelError
from wrpo_ray.schema import Prompt, Response, prompt_id, to_table

NUM_SAMPLES = 3


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with serving() as running:
        yield running


def source(endpoint: Endpoint, **fields: Any) -> OpenAISourceConfig:
    given = {
        "name": "gpt",
        "type": "openai",
        "base_url": endpoint.url,
        "model": "small",
        "api_key_env": KEY_VARIABLE,
        "sampling": SamplingConfig(num_samples=NUM_SAMPLES, max_tokens=20),
        "timeout_s": 10.0,
        "max_retries": 2,
    }
    return OpenAISourceConfig(**{**given, **fields})


def prompts(count: int) -> list[Prompt]:
    messages = [[{"role": "user", "content": f"question {number}"}] for number in range(count)]
    return [Prompt(prompt_id(each), each, "sft", None) for each in messages]


def drawn(model: OpenAISourceConfig, asked: list[Prompt]) -> tuple[list[list[Response] | SetAside], Counter[str]]:
    engine = OpenAIGenerator(model, 7, "identity", first_pause_s=0.01)
    reports: list[None] = []
    try:
        outcomes = engine.generate(asked, lambda: reports.append(None))
    finally:
        engine.close()
    assert reports
    return outcomes, Counter(engine.take_counts())


def texts(outcome: list[Response] | SetAside) -> list[str]:
    assert not isinstance(outcome, SetAside), outcome
    return [response.text for response in outcome]


def test_a_prompt_may_have_a_temperature_of_its_own(endpoint: Endpoint) -> None:
    plain, cold, hot = prompts(3)
    sampling = SamplingConfig(num_samples=2, temperature=0.5, max_tokens=20)
    outcomes, _ = drawn(source(endpoint, sampling=sampling), [plain, tempered(cold, 0.0), tempered(hot, 1.5)])
    assert [len(texts(outcome)) for outcome in outcomes] == [2, 2, 2]
    asked = Counter((each.text, each.body["temperature"]) for each in endpoint.asked)
    assert asked == {("question 0", 0.5): 2, ("question 1", 0.0): 2, ("question 2", 1.5): 2}
    # Who and what is asked, not how, decides about the seed.
    seeds = {each.body["seed"] for each in endpoint.asked if each.text == "question 1"}
    assert seeds == {request_seed(7, cold.prompt_id, "identity", index) for index in (0, 1)}


def test_each_sample_is_one_request_with_its_own_seed(endpoint: Endpoint) -> None:
    sampling = SamplingConfig(num_samples=NUM_SAMPLES, max_tokens=20, temperature=0.5, top_p=0.9, stop=("END",))
    asked = prompts(8)
    outcomes, counts = drawn(source(endpoint, sampling=sampling), asked)
    rows = [response for outcome in outcomes if not isinstance(outcome, SetAside) for response in outcome]
    assert [(row.prompt_id, row.sample_index) for row in rows] == [
        (prompt.prompt_id, index) for prompt in asked for index in range(NUM_SAMPLES)
    ]
    questions = {prompt.prompt_id: prompt.messages[0]["content"] for prompt in asked}
    assert all(row.text.endswith(questions[row.prompt_id]) for row in rows)
    assert len({row.text for row in rows}) == 8 * NUM_SAMPLES
    assert {(row.source, row.finish_reason, row.num_tokens, tuple(row.token_ids)) for row in rows} == {
        ("gpt", "stop", 3, ())
    }
    assert to_table(rows, Response).num_rows == 24
    assert counts == {"num_requests": 24, "num_prompt_tokens": 7 * 24}
    by_seed = {each.body["seed"]: each.body for each in endpoint.asked}
    assert by_seed[request_seed(7, asked[5].prompt_id, "identity", 2)] == {
        "model": "small",
        "messages": [{"role": "user", "content": "question 5"}],
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 20,
        "stop": ["END"],
        "seed": request_seed(7, asked[5].prompt_id, "identity", 2),
    }


def test_what_only_some_endpoints_take_is_sent_when_it_is_set(endpoint: Endpoint) -> None:
    sampling = SamplingConfig(num_samples=1, top_k=5, repetition_penalty=1.1)
    fields = {
        "send_seed": False,
        "max_tokens_field": "max_completion_tokens",
        "extra_body": {"reasoning_effort": "low"},
    }
    drawn(source(endpoint, sampling=sampling, **fields), prompts(1))
    body = endpoint.asked[0].body
    assert body["top_k"] == 5
    assert body["repetition_penalty"] == 1.1
    assert body["max_completion_tokens"] == 2048
    assert body["reasoning_effort"] == "low"
    assert body.keys().isdisjoint({"seed", "max_tokens", "stop"})


FIRST_FAILURES = {
    "429": failure(429, "rate_limit_exceeded", retry_after="0.05"),
    "503": failure(503),
    "500 with a page": Reply(500, b"<html>Internal Server Error</html>"),
    "cut JSON": Reply(200, b'{"choices": [{"mess'),
    "no choices": Reply(200, {"choices": []}),
    "unknown finish_reason": completion("x", "tool_calls"),
    "late": Reply(200, completion("too late").body, delay_s=1.5),
}


@pytest.mark.parametrize("first", FIRST_FAILURES.values(), ids=FIRST_FAILURES)
def test_a_failure_that_passes_costs_a_retry_and_nothing_else(endpoint: Endpoint, first: Reply) -> None:
    clean, _ = drawn(source(endpoint), prompts(4))
    endpoint.asked.clear()
    endpoint._times.clear()
    endpoint.answer = lambda asked, number: first if number == 1 and asked.text != "question 0" else echo(asked)
    outcomes, counts = drawn(source(endpoint, timeout_s=0.5), prompts(4))
    assert outcomes == clean
    assert counts["num_retries"] == 3 * NUM_SAMPLES
    assert counts["num_requests"] == len(endpoint.asked) == 7 * NUM_SAMPLES
    assert counts["num_rate_limited"] == (9 if first.status == 429 else 0)


def test_retry_after_holds_back_all_requests(endpoint: Endpoint) -> None:
    """One request is told to wait: none is sent before, whichever it is."""
    endpoint.answer = lambda asked, number: failure(429, retry_after="1") if len(endpoint.asked) == 1 else echo(asked)
    limits = LimitsConfig(max_concurrent_requests=1)
    outcomes, counts = drawn(source(endpoint, limits=limits), prompts(3))
    assert all(len(texts(outcome)) == NUM_SAMPLES for outcome in outcomes)
    times = [asked.at for asked in endpoint.asked]
    assert times[1] - times[0] >= 0.99
    assert counts["num_rate_limited"] == 1


def test_retry_after_in_all_its_forms() -> None:
    assert retry_after_s({"retry-after": "7"}) == 7
    assert retry_after_s({"retry-after-ms": "250", "retry-after": "1"}) == 0.25
    assert retry_after_s({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    assert (retry_after_s({"retry-after": "Fri, 31 Dec 2199 23:59:59 GMT"}) or 0) > 1e9
    for nonsense in ("soon", "-5", "nan", "inf", ""):
        assert retry_after_s({"retry-after": nonsense}) is None
    assert retry_after_s({}) is None
    assert retry_after_s({"retry-after": "Wed, 21 Oct 99999999999999 07:28:00 GMT"}) is None


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"error":' * 9999, b'{"error": {"message": "\\ud800"}}'])
def test_an_error_that_cannot_be_read_is_told_by_its_status(body: bytes) -> None:
    source = OpenAISourceConfig(name="s", type="openai", base_url="https://host/v1", model="m")
    with pytest.raises(ModelError) as caught:
        read_reply(401, {}, body, source)
    caught.value.message.encode("utf-8")


@pytest.mark.parametrize("count", [-1, 2**31, 2**70])
def test_counts_that_cannot_be_are_as_if_not_told(count: int) -> None:
    source = OpenAISourceConfig(name="s", type="openai", base_url="https://host/v1", model="m")
    body = {
        "choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": count},
    }
    assert read_reply(200, {}, json.dumps(body).encode(), source) == ("hi", "stop", 3, None)


ROW_FAILURES = {
    "filter": (failure(400, "content_filter"), "content_filtered", 1),
    "answer filtered": (completion("half an ans", "content_filter"), "content_filtered", 1),
    "too long": (failure(400, "context_length_exceeded"), "prompt_too_long", 1),
    "too long for vLLM": (
        failure(400, message="This model's maximum context length is 9 tokens."),
        "prompt_too_long",
        1,
    ),
    "refused": (failure(400, "invalid_prompt", "I will not do: question 2"), "request_refused", 1),
    "always 500": (failure(500), "request_failed", 3),
}


@pytest.mark.parametrize(("reply", "code", "attempts"), ROW_FAILURES.values(), ids=ROW_FAILURES)
def test_one_bad_prompt_is_set_aside_alone(endpoint: Endpoint, reply: Reply, code: str, attempts: int) -> None:
    endpoint.answer = lambda asked, number: reply if asked.text == "question 2" else echo(asked)
    outcomes, _ = drawn(source(endpoint), prompts(6))
    bad = outcomes.pop(2)
    assert isinstance(bad, SetAside)
    assert (bad.code, bad.attempts) == (code, attempts)
    assert "question 2" not in bad.error
    assert all(len(texts(outcome)) == NUM_SAMPLES for outcome in outcomes)


HOPELESS = {
    "key": (failure(401, "invalid_api_key"), "WRPO-E040", 64),
    "model": (failure(404, "model_not_found", "The model `small` does not exist"), "WRPO-E042", 64),
    "elsewhere": (Reply(301, b"", {"location": "https://example.com"}), "WRPO-E042", 64),
    "quota": (failure(429, "insufficient_quota"), "WRPO-E043", 64),
    "tomorrow": (failure(429, "daily_limit", retry_after="86400"), "WRPO-E041", 64),
    "parameter": (failure(400, "unsupported_parameter", "use max_completion_tokens"), "WRPO-E044", 200),
    "rate limit for ever": (failure(429), "WRPO-E041", 200),
    "down": (failure(502), "WRPO-E041", 200),
}


@pytest.mark.parametrize(("reply", "code", "most_requests"), HOPELESS.values(), ids=HOPELESS)
def test_what_no_prompt_is_to_blame_for_ends_the_step_soon(
    endpoint: Endpoint, reply: Reply, code: str, most_requests: int
) -> None:
    endpoint.answer = lambda asked, number: reply
    with pytest.raises(ModelError) as raised:
        drawn(source(endpoint), prompts(300))
    assert raised.value.code == code
    assert raised.value.help
    assert len(endpoint.asked) <= most_requests
    if code == "WRPO-E044":
        assert "use max_completion_tokens" in raised.value.message


def test_nobody_listens() -> None:
    with serving() as closed:
        pass
    with pytest.raises(ModelError, match=r"4 prompts in a row failed 3 times; last: ConnectError") as raised:
        drawn(source(closed, api_key_env=None), prompts(10))
    assert raised.value.code == "WRPO-E041"


def test_an_endpoint_that_fails_now_and_then_is_not_down(endpoint: Endpoint) -> None:
    """Seven of 40 prompts always fail, never four of them without an answer in between."""
    bad = {f"question {number}" for number in range(0, 40, 6)}
    endpoint.answer = lambda asked, number: failure(500) if asked.text in bad else echo(asked)
    limits = LimitsConfig(max_concurrent_requests=4)
    outcomes, _ = drawn(source(endpoint, limits=limits), prompts(40))
    assert [isinstance(outcome, SetAside) for outcome in outcomes] == [number % 6 == 0 for number in range(40)]


def test_the_key_is_sent_and_never_told(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server repeats the key in its error, as some do."""
    secret = "wrong-key-9876543210"
    monkeypatch.setenv(KEY_VARIABLE, secret)
    with pytest.raises(ModelError) as raised:
        drawn(source(endpoint), prompts(2))
    assert raised.value.code == "WRPO-E040"
    assert secret not in f"{raised.value.message} {raised.value.help}"
    assert "[redacted]" in raised.value.message
    for broken in ("", "two words", "line\nbreak"):
        monkeypatch.setenv(KEY_VARIABLE, broken)
        with pytest.raises(ModelError, match=f"the environment variable {KEY_VARIABLE}") as raised:
            OpenAIGenerator(source(endpoint), 7, "identity")
        assert raised.value.code == "WRPO-C080"
        assert not broken or broken not in raised.value.message


def test_another_account_of_the_environment_is_not_told(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(ModelError, match="refuses the key"):
        drawn(source(endpoint, api_key_env=None), prompts(1))
    endpoint.key = None
    assert texts(drawn(source(endpoint, api_key_env=None), prompts(1))[0][0])


def test_an_endpoint_without_usage_is_counted(endpoint: Endpoint) -> None:
    reply = completion("short")
    endpoint.answer = lambda asked, number: dataclasses.replace(reply, body={"choices": reply.body["choices"]})
    outcomes, counts = drawn(source(endpoint), prompts(2))
    assert [row.num_tokens for row in outcomes[0]] == [0] * NUM_SAMPLES  # type: ignore[union-attr]
    assert counts["num_without_usage"] == 2 * NUM_SAMPLES


def test_limits_reach_the_server(endpoint: Endpoint) -> None:
    endpoint.answer = lambda asked, number: dataclasses.replace(echo(asked), delay_s=0.02)
    limits = LimitsConfig(max_concurrent_requests=5)
    drawn(source(endpoint, limits=limits), prompts(10))
    assert endpoint.most_at_once == 5
    endpoint.asked.clear()
    drawn(source(endpoint, limits=LimitsConfig(requests_per_minute=1200)), prompts(10))
    times = sorted(asked.at for asked in endpoint.asked)
    # 30 requests at 0.05 s; the server's clock may see the first late, never the last early.
    assert times[-1] - times[0] >= 29 * 0.05 - 0.05


def test_asked(endpoint: Endpoint) -> None:
    """The double itself: the same request gets the same text, another one another text."""
    body = {"messages": [{"role": "user", "content": "x"}], "seed": 1}
    assert echo(Asked(0.0, body)) == echo(Asked(1.0, body)) != echo(Asked(0.0, {**body, "seed": 2}))
