"""Checks of a source behind an HTTP endpoint; they cost nothing and ask for no response."""

from __future__ import annotations

from collections.abc import Iterator

from wrpo_ray.addresses import leads_to_metadata
from wrpo_ray.config import OpenAISourceConfig
from wrpo_ray.endpoints import headers, key_problem, normal_url
from wrpo_ray.errors import Problem

_TIMEOUT_S = 10.0
_ATTEMPTS = 3


def check_endpoint(place: str, source: OpenAISourceConfig) -> Iterator[Problem]:
    """Yield a problem when the key is missing or refused, or nothing answers at the address.

    The list of models is asked for, which is free; an endpoint that has none, or lists some of its models only, passes.
    """
    if source.api_key_env is not None and (reason := key_problem(source.api_key_env)):
        rule = f"this environment variable {reason}"
        fix = "set it where the run is started and on all nodes, or leave api_key_env out for an endpoint without keys"
        yield Problem(f"{place}.api_key_env", source.api_key_env, rule, fix, "WRPO-C080")
        return
    if (found := leads_to_metadata(source.base_url)) is not None:
        rule = f"its host is {found}, the address of a cloud's metadata service or another link-local one"
        yield Problem(f"{place}.base_url", normal_url(source.base_url), rule, "name another host", "WRPO-C131")
        return
    status, reason = _status_of_models(source)
    if status is None:
        rule = f"nothing answers there: {reason}"
        fix = "correct the address, or try again later"
        yield Problem(f"{place}.base_url", normal_url(source.base_url), rule, fix, "WRPO-E041")
    elif status in (401, 403):
        rule = f"the endpoint refuses the key (HTTP {status})"
        value = source.api_key_env or "(no key)"
        yield Problem(f"{place}.api_key_env", value, rule, "give it a valid key of this endpoint", "WRPO-E040")


def _status_of_models(source: OpenAISourceConfig) -> tuple[int | None, str]:
    """Return the HTTP status of the list of models, or None and why there is no answer."""
    import httpx2

    reason = ""
    for _ in range(_ATTEMPTS):
        try:
            url = f"{normal_url(source.base_url)}/models"
            return httpx2.get(url, headers=headers(source), timeout=_TIMEOUT_S).status_code, ""
        except httpx2.TransportError as error:
            reason = f"{type(error).__name__}: {error}"
    return None, reason
