"""Rules of sections that describe an endpoint: sources of type openai, and the judge."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import SplitResult, urlsplit

from wrpo_ray.config import FuseConfig, OpenAISourceConfig
from wrpo_ray.errors import Problem
from wrpo_ray.redaction import HIDDEN, is_secret_name, redacted

# Of a chat-completions request.
OWN_BODY_FIELDS = frozenset(
    {"model", "messages", "n", "stream", "seed", "temperature", "top_p", "top_k", "repetition_penalty", "max_tokens"}
    | {"max_completion_tokens", "stop", "tools", "functions", "logprobs"}
)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def endpoint_sections(config: FuseConfig) -> Iterator[tuple[str, OpenAISourceConfig]]:
    """Yield every section of a model behind an HTTP endpoint, with its place in the config."""
    for source in config.sources:
        if isinstance(source, OpenAISourceConfig):
            yield f"sources.{source.name}", source
    if config.evaluation and config.evaluation.judge:
        yield "evaluation.judge", config.evaluation.judge


def endpoint_problems(config: FuseConfig) -> Iterator[Problem]:
    """Yield every broken rule of sections that describe an endpoint."""
    for place, source in endpoint_sections(config):
        for field in sorted(OWN_BODY_FIELDS & set(source.extra_body)):
            rule = "this field of a request is set by the run"
            value = shown(source.extra_body[field])
            yield Problem(f"{place}.extra_body.{field}", value, rule, "remove it from extra_body", "WRPO-C018")
        if rule := _broken_url(source.base_url):
            fix = "write https://host/v1, say; the key belongs into the variable that api_key_env names"
            # It may hold a key of a shape that nobody knows.
            yield Problem(f"{place}.base_url", HIDDEN, rule, fix, "WRPO-C081")
        name = source.api_key_env
        if name is not None and not (_VARIABLE.fullmatch(name) and is_secret_name(name)):
            rule = "must be the name of an environment variable, with KEY, TOKEN or SECRET as a word: such are redacted"
            fix = "write OPENAI_API_KEY, say, and put the key itself into that variable"
            yield Problem(f"{place}.api_key_env", HIDDEN, rule, fix, "WRPO-C082")
        tokens, most = source.sampling.max_tokens, source.limits.tokens_per_minute
        if most is not None and most <= tokens:
            rule = f"must be more than sampling.max_tokens = {tokens}, or no request may ever be sent"
            fix = "raise it, or lower max_tokens"
            yield Problem(f"{place}.limits.tokens_per_minute", str(most), rule, fix, "WRPO-C083")


def _broken_url(url: str) -> str | None:
    """Return the rule that an endpoint's address breaks."""
    try:
        parts: SplitResult = urlsplit(url)
        _ = parts.port
    except ValueError:
        return "is no address"
    if parts.scheme not in ("http", "https") or not parts.hostname or not url.isascii() or re.search(r"\s", url):
        return "must be an address that begins with https:// or http:// and a host"
    if "@" in parts.netloc or parts.query or parts.fragment:
        return "must have neither a user nor a query: it is stored with the run"
    return "must end before /chat/completions" if parts.path.rstrip("/").endswith("/completions") else None


def shown(value: Any, limit: int = 80) -> str:
    """Return `value` as ASCII without secrets, cut to `limit` characters, fit for a message."""
    text = redacted(json.dumps(value, ensure_ascii=True, default=repr))
    return text if len(text) <= limit else text[: limit - 3] + "..."
