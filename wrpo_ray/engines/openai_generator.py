"""Responses from an OpenAI-compatible endpoint: one request per sample, as many at once as its limits allow.

What an endpoint gives for a seed is its own affair; ours are those of the vLLM sources, so that a sample's request
depends on what it is and on nothing else.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import httpx2

from wrpo_ray.config import OpenAISourceConfig
from wrpo_ray.endpoints import headers, normal_url
from wrpo_ray.engines.openai_limits import Limiter
from wrpo_ray.engines.openai_reply import Completion, RetryLaterError, RowRefusedError, read_reply
from wrpo_ray.engines.process import shortened
from wrpo_ray.engines.protocol import Progress, SetAside
from wrpo_ray.engines.requests import sample_indices, sampling_of
from wrpo_ray.engines.vllm_generator import request_seed
from wrpo_ray.errors import ModelError, raise_own
from wrpo_ray.schema import Prompt, Response

log = logging.getLogger(__name__)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
# An endpoint that asks to wait longer has run out of a day's allowance, not of a minute's.
_LONGEST_RETRY_AFTER_S = 3600.0
_CONNECT_S = 30.0
_REPORT_S = 1.0
# Prompts that failed one after another, with no answer to any other in between: the endpoint is down.
_DOWN_PROMPTS = 4
# Prompts that were refused before anything was answered at all: what is asked is wrong for every prompt.
_REFUSED_PROMPTS = 16
# English has about four bytes per token, most other languages fewer; the reply says how many there were.
_BYTES_PER_TOKEN = 3


class OpenAIGenerator:
    """A model behind an endpoint; satisfies engines.protocol.Generator."""

    def __init__(
        self, model: OpenAISourceConfig, run_seed: int, identity: str, first_pause_s: float = _FIRST_PAUSE_S
    ) -> None:
        self.model, self.run_seed, self.identity, self.first_pause_s = model, run_seed, identity, first_pause_s
        self.counts: Counter[str] = Counter()
        self.limiter = Limiter(model.limits)
        self._num_answered = self._num_refused = self._num_failed_in_a_row = 0
        most = model.limits.max_concurrent_requests
        self._client = httpx2.AsyncClient(
            headers=headers(model),
            timeout=httpx2.Timeout(None, connect=_CONNECT_S),
            limits=httpx2.Limits(max_connections=most, max_keepalive_connections=most),
        )
        self._url = f"{normal_url(model.base_url)}/chat/completions"
        self._runner = asyncio.Runner()

    def generate(self, prompts: Sequence[Prompt], progress: Progress) -> list[list[Response] | SetAside]:
        """See engines.protocol.Generator; raises ModelError when the endpoint cannot be used."""
        try:
            return self._runner.run(self._all(prompts, progress))
        except BaseExceptionGroup as errors:
            raise_own(errors)
            raise _first(errors) from errors

    def take_counts(self) -> dict[str, int]:
        """See engines.protocol.CountingEngine."""
        counts, self.counts = +self.counts, Counter()
        return dict(counts)

    def is_usable(self) -> bool:
        """See engines.protocol.Engine; an exception leaves no request behind."""
        return True

    def close(self) -> None:
        """See engines.protocol.Engine."""
        self._runner.run(self._client.aclose())
        self._runner.close()

    async def _all(self, prompts: Sequence[Prompt], progress: Progress) -> list[list[Response] | SetAside]:
        async with asyncio.TaskGroup() as group:
            # Waiting is this engine's work, and each request ends by its own time-out: it is never hung by itself.
            reporting = group.create_task(_report(progress))
            tasks = [group.create_task(self._prompt(prompt)) for prompt in prompts]
            outcomes = [await task for task in tasks]
            reporting.cancel()
        return outcomes

    async def _prompt(self, prompt: Prompt) -> list[Response] | SetAside:
        refused: list[RowRefusedError] = []
        tasks: list[asyncio.Task[Response]] = []
        try:
            async with asyncio.TaskGroup() as group:
                samples = sample_indices(prompt, self.model.sampling.num_samples)
                tasks += [group.create_task(self._sample(prompt, index)) for index in samples]
        except* RowRefusedError as errors:
            refused += [error for error in errors.exceptions if isinstance(error, RowRefusedError)]
        return self._set_aside(refused[0]) if refused else [task.result() for task in tasks]

    async def _sample(self, prompt: Prompt, sample_index: int) -> Response:
        seed = request_seed(self.run_seed, prompt.prompt_id, self.identity, sample_index)
        body = request_body(self.model, prompt, seed)
        async with self.limiter.slots:
            completion = await self._answer(body)
        self.counts["num_prompt_tokens"] += completion.num_prompt_tokens or 0
        self.counts["num_without_usage"] += completion.num_tokens is None
        return Response(
            prompt_id=prompt.prompt_id,
            source=self.model.name,
            sample_index=sample_index,
            text=completion.text,
            token_ids=[],
            finish_reason=completion.finish_reason,
            num_tokens=completion.num_tokens or 0,
        )

    async def _answer(self, body: dict[str, Any]) -> Completion:
        """Return the answer to a request, tried as often as the config says."""
        tries = self.model.max_retries + 1
        for attempt in range(1, tries + 1):
            try:
                completion = await self._one_try(body)
            except RetryLaterError as error:
                last = error
                self.counts["num_rate_limited"] += error.rate_limited
                if attempt < tries:
                    self.counts["num_retries"] += 1
                    await self._wait(error, attempt)
            else:
                self._num_answered, self._num_failed_in_a_row = self._num_answered + 1, 0
                return completion
        if last.rate_limited:
            raise self._unavailable(f"{tries} tries of a request met its rate limit; last: {last.reason}")
        raise RowRefusedError("request_failed", last.reason, attempts=tries)

    async def _one_try(self, body: dict[str, Any]) -> Completion:
        most = len(json.dumps(body["messages"], ensure_ascii=False).encode("utf-8")) // _BYTES_PER_TOKEN
        reserved = await self.limiter.admitted(most + self.model.sampling.max_tokens)
        self.counts["num_requests"] += 1
        try:
            async with asyncio.timeout(self.model.timeout_s):
                reply = await self._client.post(self._url, json=body)
        except TimeoutError:
            raise RetryLaterError(f"no reply within {self.model.timeout_s:g} s") from None
        except httpx2.RequestError as error:
            raise RetryLaterError(shortened(f"{type(error).__name__}: {error}")) from None
        completion = read_reply(reply.status_code, reply.headers, reply.content, self.model)
        if completion.num_tokens is not None:
            self.limiter.settle(reserved, completion.num_tokens + (completion.num_prompt_tokens or 0))
        return completion

    async def _wait(self, error: RetryLaterError, attempt: int) -> None:
        """Wait before the next try: as long as the endpoint asks, and at least ever longer, each time by chance."""
        asked = error.after_s or 0.0
        if asked > _LONGEST_RETRY_AFTER_S:
            raise self._unavailable(f"it asks to wait for {asked:.0f} s: {error.reason}")
        pause_s = min(self.first_pause_s * 2 ** (attempt - 1), _LONGEST_PAUSE_S) * random.uniform(0.5, 1.0)
        seconds = max(asked, pause_s)
        log.info("%s: %s; try %d in %.1f s", self.model.name, error.reason, attempt + 1, seconds)
        if error.rate_limited:
            self.limiter.pause(seconds)
        await self.limiter.sleep(seconds)

    def _set_aside(self, refused: RowRefusedError) -> SetAside:
        """Return why a prompt has no response; raises ModelError when the prompts are not to blame."""
        if refused.code == "request_failed":
            self._num_failed_in_a_row += 1
            if self._num_failed_in_a_row >= _DOWN_PROMPTS:
                raise self._unavailable(
                    f"{_DOWN_PROMPTS} prompts in a row failed {refused.attempts} times; last: {refused.reason}"
                )
        if refused.code == "request_refused":
            self._num_refused += 1
            if self._num_refused >= _REFUSED_PROMPTS and not self._num_answered:
                raise ModelError(
                    f"{self.model.name}: {normal_url(self.model.base_url)} refused the first {_REFUSED_PROMPTS}"
                    f" prompts: {refused.reason}: {refused.told}",
                    code="WRPO-E044",
                    help="send what it takes: see send_seed, max_tokens_field, extra_body and sampling of the source",
                )
        return SetAside(refused.code, refused.reason, refused.attempts)

    def _unavailable(self, reason: str) -> ModelError:
        return ModelError(
            f"{self.model.name}: {normal_url(self.model.base_url)} does not answer: {reason}",
            code="WRPO-E041",
            help="run the same command again later: what was drawn is kept; lower limits, or raise max_retries",
        )


def request_body(model: OpenAISourceConfig, prompt: Prompt, seed: int) -> dict[str, Any]:
    """Return the JSON of one request; what only some endpoints know is left out where it changes nothing."""
    sampling = sampling_of(prompt, model.sampling)
    body: dict[str, Any] = {
        "model": model.model,
        "messages": [dict(message) for message in prompt.messages],
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        model.max_tokens_field: sampling.max_tokens,
    }
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if model.send_seed:
        body["seed"] = seed
    if sampling.top_k:
        body["top_k"] = sampling.top_k
    if sampling.repetition_penalty != 1.0:
        body["repetition_penalty"] = sampling.repetition_penalty
    return body | model.extra_body


def _first(error: BaseException) -> BaseException:
    """Return the first error in a group of them: what has to be told apart was so before."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _report(progress: Progress) -> None:
    while True:
        progress()
        await asyncio.sleep(_REPORT_S)
