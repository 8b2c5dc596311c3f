"""A model behind an HTTP endpoint: how it is reached, and how much it may be asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, JsonValue

from wrpo_ray.config_base import Frozen, PositiveFloat, PositiveInt, Slug


class LimitsConfig(Frozen):
    """What an account may ask an endpoint for; none is no limit."""

    requests_per_minute: PositiveFloat | None = None
    """Requests are sent evenly spaced, retries included."""
    tokens_per_minute: PositiveInt | None = None
    """Tokens of prompts and responses in any 60 seconds; a running request counts with its max_tokens."""
    max_concurrent_requests: PositiveInt = 16


class EndpointConfig(Frozen):
    """An OpenAI-compatible chat-completions endpoint; all that concerns the answers' content stands beside it."""

    name: Slug
    """How the model is called in files, tables and metrics."""
    type: Literal["openai"]
    base_url: str
    """Address before `/chat/completions`, such as https://api.example.com/v1."""
    model: Annotated[str, Field(min_length=1)]
    """Name of the model at the endpoint; what stands behind the name may change without a word."""
    api_key_env: str | None = None
    """Name of the environment variable with the key, on the driver and on all nodes; none sends no key."""
    send_seed: bool = True
    """Send each request's own seed; false for endpoints that refuse the field."""
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """Under which name sampling.max_tokens is sent; OpenAI's reasoning models take the second one alone."""
    extra_body: dict[str, JsonValue] = {}
    """Further fields of every request, passed on as they are. Never put a secret here: it is stored with the run."""
    limits: LimitsConfig = LimitsConfig()
    timeout_s: PositiveFloat = 600.0
    """One request may take this long, from connecting to the last byte."""
    max_retries: Annotated[int, Field(ge=0)] = 8
    """Retries of one request after 429, 5xx, time-outs and replies that cannot be read, ever further apart."""
    prompts_per_shard: PositiveInt = 128
    """Prompts that are committed as one file; a crash costs the answers to at most so many."""
    num_cpus: PositiveFloat = 0.5
    """CPUs of the one process that sends the requests."""


def source_type(source: object) -> str:
    """Return which kind of source a section describes; `vllm` where it does not say.

    A section with the address of an endpoint and no model's path is one of an endpoint, which must say so: what is told
    of it then is that `type` is missing, and not that each of its fields is unknown.
    """
    if not isinstance(source, Mapping):
        return str(getattr(source, "type", "vllm"))
    usual = "openai" if "base_url" in source and "path" not in source else "vllm"
    return str(source.get("type", usual))
