"""Secrets taken out of everything that is logged, shown or stored.

A secret is the value of an environment variable that is named like one, or text of a shape that only secrets have.
Forty hex digits alone are no such shape: commits look like that. A W&B key of this form is found by its variable.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "[redacted]"
# A shorter value ("1", "true", "token") is a setting, and would be found all over a text.
_MIN_SECRET_CHARACTERS = 8
_SECRET_WORDS = frozenset(
    {"TOKEN", "SECRET", "SECRETS", "KEY", "KEYS", "APIKEY", "PASSWORD", "PASSWD", "PASSPHRASE", "CREDENTIALS", "PAT"}
)
# A variable that says where a secret lies may be shown.
_PLACE_ENDINGS = ("_PATH", "_FILE", "_DIR", "_SOCK", "_URL", "_URI", "_ID", "_MODE")
_PLACES = frozenset({"GOOGLE_APPLICATION_CREDENTIALS"})
_SHAPES = tuple(
    re.compile(pattern)
    for pattern in (
        r"\bhf_[A-Za-z0-9]{20,}",
        r"\bapi_org_[A-Za-z0-9]{20,}",
        r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
        r"\bgh[pousr]_[A-Za-z0-9]{30,}",
        r"\bgithub_pat_[A-Za-z0-9_]{30,}",
        r"\bglpat-[A-Za-z0-9_-]{20,}",
        r"\bsk-[A-Za-z0-9_-]{20,}",
        r"\bwandb_v1_[A-Za-z0-9_]{20,}",
        # Endpoints' keys: Groq, Replicate, Fireworks, Together, xAI, Perplexity, NVIDIA, Databricks.
        r"\b(?:gsk|r8|fw|tgp_v1)_[A-Za-z0-9_-]{20,}",
        r"\b(?:xai|pplx|nvapi)-[A-Za-z0-9_-]{20,}",
        r"\bdapi[0-9a-f]{32}\b",
        r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}",
        r"\bAIza[A-Za-z0-9_-]{35}",
        r"\bya29\.[A-Za-z0-9_-]{20,}",
        r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}",
        r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
        # The group before the secret stays.
        r"(?P<kept>://)[^\s/@:]*:[^\s/@]+(?=@)",
        r"(?P<kept>://)(?=[^\s/@:]*[0-9])[^\s/@:]{12,}(?=@)",
        r"(?P<kept>(?i:authorization[\"']?\s{0,4}[:=]\s{0,4}[\"']?(?:bearer|basic|token)\s+))[A-Za-z0-9._~+/=-]{8,}",
        r"(?P<kept>(?i:x-amz-(?:signature|credential|security-token)|x-goog-signature|[?&]sig(?:nature)?)=)[^&\s\"']+",
        r"(?P<kept>(?i:(?:api_?-?key|access_?-?key|account_?-?key|secret|token|password|passwd)[\"']?\s{0,4}[=:]\s{0,4}[\"']?))"
        r"(?=[A-Za-z0-9_./+=-]{0,200}[0-9])[A-Za-z0-9_./+=-]{16,}",
    )
)  # fmt: skip


def redacted(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return `text` without the secrets in it."""
    for value in secret_values(environment):
        text = text.replace(value, HIDDEN)
    return _without_shapes(text)


def last_line(text: str, most_characters: int = 300) -> str:
    """Return the last line of `text` that says something, without secrets; of Ray's errors the rest is inside."""
    lines = [line.strip() for line in redacted(text).splitlines() if line.strip()]
    return lines[-1][:most_characters] if lines else ""


def _without_shapes(text: str) -> str:
    for shape in _SHAPES:
        text = shape.sub(lambda match: match.groupdict().get("kept", "") + HIDDEN, text)
    return text


def has_secret(text: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Tell whether `redacted` would take something out of `text`."""
    return redacted(text, environment) != text


def is_secret_name(name: str) -> bool:
    """Tell whether a variable of this name holds a secret: HF_TOKEN does, TOKENIZERS_PARALLELISM does not."""
    upper = name.upper().replace("-", "_")
    if upper in _PLACES or upper.endswith(_PLACE_ENDINGS):
        return False
    return not _SECRET_WORDS.isdisjoint(upper.split("_"))


def secret_values(environment: Mapping[str, str]) -> list[str]:
    """Return the secrets of an environment, longest first, so that none is left in part."""
    values = {value.strip() for name, value in environment.items() if is_secret_name(name)}
    return sorted((value for value in values if len(value) >= _MIN_SECRET_CHARACTERS), key=len, reverse=True)


def redact_logs() -> None:
    """Take secrets out of every log record of this process, whichever logger and handler it goes through.

    A filter would have to be set on each handler, those of libraries too; a record factory sees them all.
    """
    make_record = logging.getLogRecordFactory()
    if getattr(make_record, "takes_secrets_out", False):
        return

    def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make_record(*args, **kwargs)
        _redact_record(record)
        return record

    factory.takes_secrets_out = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(factory)


def _redact_record(record: logging.LogRecord) -> None:
    """Change the record only where it holds a secret: some formatters look at `args`."""
    try:
        message = record.getMessage()
    except (TypeError, ValueError, KeyError):
        # A call with the wrong number of arguments; logging itself says so when it formats the record.
        return
    if has_secret(message):
        record.msg, record.args = redacted(message), None
    if record.exc_info:
        # A formatter shows `exc_text` where there is one, and makes it from `exc_info` otherwise.
        record.exc_text = redacted(logging.Formatter().formatException(record.exc_info))
