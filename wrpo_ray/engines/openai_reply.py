"""What an endpoint's reply means: a completion, "later", "never this prompt", or "never". No network.

Field names and status codes: https://platform.openai.com/docs/api-reference/chat/create and
https://platform.openai.com/docs/guides/error-codes. A reply's own words may repeat the prompt, so they are shown in
errors that stop the run and never kept with a row.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, Field, ValidationError

from wrpo_ray.config import OpenAISourceConfig
from wrpo_ray.endpoints import normal_url
from wrpo_ray.engines.process import shortened
from wrpo_ray.errors import ModelError

_FINISH_REASONS = {"stop": "stop", "eos": "stop", "length": "length"}
# Worth another try besides every 5xx.
_LATER = {408, 409, 425, 429}
_FILTER_CODES = {"content_filter", "content_policy_violation"}


class Completion(NamedTuple):
    """One answer; the counts are None when the endpoint does not tell them."""

    text: str
    finish_reason: str
    num_prompt_tokens: int | None
    num_tokens: int | None


class RetryLaterError(Exception):
    """The same request may succeed later. after_s: the endpoint's own word on when."""

    def __init__(self, reason: str, after_s: float | None = None, rate_limited: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.after_s, self.rate_limited = reason, after_s, rate_limited


class RowRefusedError(Exception):
    """This prompt gets no answer, others may. reason: fit to be kept with the row. told: the endpoint's words."""

    def __init__(self, code: str, reason: str, told: str = "", attempts: int = 1) -> None:
        super().__init__(reason)
        self.code, self.reason, self.told, self.attempts = code, reason, told, attempts


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message = _Message()
    finish_reason: str | None = None


class _Usage(BaseModel):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Reply(BaseModel):
    choices: Annotated[list[_Choice], Field(min_length=1, max_length=1)]
    usage: _Usage | None = None


class _Told(NamedTuple):
    """What the body of an error says: `label` is short and the endpoint's own, `message` may hold anything."""

    label: str
    codes: frozenset[str]
    message: str


def read_reply(status: int, headers: Mapping[str, str], body: bytes, source: OpenAISourceConfig) -> Completion:
    """Return the completion in a reply; raises RetryLaterError, RowRefusedError, or ModelError."""
    if status == 200:
        return _completion(body)
    told = _told(status, body)
    if status == 402 or (status == 429 and "insufficient_quota" in told.codes):
        raise ModelError(
            f"{source.name}: the account at {normal_url(source.base_url)} has nothing left: {told.message}",
            code="WRPO-E043",
            help="raise its quota, then run the same command again: what was drawn is kept",
        )
    if status in _LATER or status >= 500:
        raise RetryLaterError(told.label, retry_after_s(headers), rate_limited=status == 429)
    if status == 401:
        raise ModelError(
            f"{source.name}: {normal_url(source.base_url)} refuses the key: {told.message}",
            code="WRPO-E040",
            help=f"give {source.api_key_env or 'api_key_env'} a valid key of this endpoint",
        )
    if status in (404, 405) or status < 400:
        raise ModelError(
            f"{source.name}: no model {source.model} at {normal_url(source.base_url)}: HTTP {status} {told.message}",
            code="WRPO-E042",
            help="correct base_url (it often ends in /v1) or model",
        )
    raise RowRefusedError(_row_code(told), told.label, told.message)


def _completion(body: bytes) -> Completion:
    try:
        reply = _Reply.model_validate_json(body)
    except ValidationError as error:
        # The input is left out: it is the model's answer.
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise RetryLaterError(f"the reply is no chat completion: {place} {first['type']}".replace("  ", " ")) from None
    choice, usage = reply.choices[0], reply.usage
    if choice.finish_reason == "content_filter":
        raise RowRefusedError("content_filtered", "finish_reason content_filter")
    if choice.finish_reason not in _FINISH_REASONS:
        raise RetryLaterError(f"the reply has the finish_reason {shortened(repr(choice.finish_reason))}")
    counts = (_count(usage.prompt_tokens), _count(usage.completion_tokens)) if usage else (None, None)
    return Completion(choice.message.content or "", _FINISH_REASONS[choice.finish_reason], *counts)


def _count(number: int) -> int | None:
    """Return a number of tokens, or None for what cannot be one; it would not fit the column either."""
    return number if 0 <= number < 2**31 else None


def _told(status: int, body: bytes) -> _Told:
    """Read {"error": {"message", "type", "code"}}, or what some endpoints send in its place."""
    try:
        raw: Any = json.loads(body)
    except (ValueError, RecursionError):
        raw = None
    error = raw.get("error", raw) if isinstance(raw, dict) else raw
    if not isinstance(error, dict):
        return _Told(f"HTTP {status}", frozenset(), shortened(body[:2000].decode("utf-8", errors="replace")))
    inner = error.get("innererror")
    codes = [error.get("code"), error.get("type"), inner.get("code") if isinstance(inner, dict) else None]
    # A code is a word; what is longer may be the prompt's own text.
    words = [
        str(code) for code in codes if isinstance(code, str) and code.replace("_", "").isalnum() and len(code) < 60
    ]
    message = error.get("message")
    label = " ".join([f"HTTP {status}", *dict.fromkeys(words)])
    return _Told(label, frozenset(words), shortened(str(message)) if message else label)


def _row_code(told: _Told) -> str:
    if told.codes & _FILTER_CODES:
        return "content_filtered"
    # The second form is vLLM's and that of many who follow it.
    too_long = "context_length_exceeded" in told.codes or "maximum context length" in told.message
    return "prompt_too_long" if too_long else "request_refused"


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that an endpoint asks to wait, from retry-after-ms or Retry-After (seconds or a date)."""
    if (milliseconds := _number(headers.get("retry-after-ms"))) is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    if value is None or (seconds := _number(value)) is not None:
        return None if value is None else seconds
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else -1.0
    except ValueError:
        return None
    return value if 0 <= value < float("inf") else None
