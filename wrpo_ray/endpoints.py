"""OpenAI-compatible HTTP endpoints: what identifies a model behind one, and how one is addressed.

A key is read from the environment of the process that sends it, and goes nowhere else.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from wrpo_ray.config import OpenAISourceConfig
from wrpo_ray.errors import ModelError

_PORTS = {"http": 80, "https": 443}


def normal_url(base_url: str) -> str:
    """Return an address in the one form that equal ones share: lower-case host, no standard port, no slash at the end.

    A user in it is left out.
    """
    parts = urlsplit(base_url)
    host = (parts.hostname or "").lower()
    host = f"[{host}]" if ":" in host else host
    port = f":{parts.port}" if parts.port and parts.port != _PORTS.get(parts.scheme) else ""
    return f"{parts.scheme}://{host}{port}{parts.path.rstrip('/')}"


def endpoint_identity(source: OpenAISourceConfig) -> dict[str, Any]:
    """Return JSON values that change when other responses are asked for.

    The endpoint may put another model behind the same name; nothing here, and nothing that it tells, would show that.
    """
    asked = {
        "max_tokens_field": source.max_tokens_field,
        "send_seed": source.send_seed,
        "extra_body": source.extra_body,
    }
    return {"endpoint": normal_url(source.base_url), "model": source.model, **asked}


def headers(source: OpenAISourceConfig, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the headers that let a request in; raises ModelError when there is no usable key."""
    if source.api_key_env is None:
        return {}
    if reason := key_problem(source.api_key_env, environment):
        raise ModelError(
            f"{source.name}: the environment variable {source.api_key_env} {reason} on this node",
            code="WRPO-C080",
            help="set it where the run is started and on all nodes",
        )
    return {"Authorization": f"Bearer {environment[source.api_key_env].strip()}"}


def key_problem(variable: str, environment: Mapping[str, str] = os.environ) -> str | None:
    """Return what is wrong with the key in `variable`, never the key itself."""
    key = environment.get(variable, "").strip()
    if not key:
        return "is not set"
    # Whatever sends it would put an unfit header into its error message.
    return None if key.isascii() and key.isprintable() and " " not in key else "holds no key: only ASCII, no spaces"
