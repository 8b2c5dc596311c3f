"""Rules of fields that say where something lies: paths, URIs and addresses. Nothing is looked up here."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator
from urllib.parse import unquote, urlsplit

from wrpo_ray.addresses import is_metadata_host
from wrpo_ray.config_endpoint_rules import shown
from wrpo_ray.errors import Problem

# Names of fields that hold a path or a URI, whatever section they stand in; those of endpoints have rules of their own.
_PATHS = frozenset(
    {"path", "root", "store", "chat_template", "template", "include_path"}
    | {"alpaca_eval", "arena_hard_v0_1", "arena_hard_v2", "mt_bench"}
)
_SAFETY_PROMPTS = "evaluation.safety.prompts"
# They have rules of their own for what is no place at all: WRPO-C027.
_ROOTS = ("run.root", "models.store")
_ADDRESSES = frozenset({"base_url", "mlflow_tracking_uri"})
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_BUCKET = re.compile(r"(?:s3|gs)://[a-z0-9][a-z0-9._-]{1,61}[a-z0-9](?:/[^?#]*)?")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")
# Views of processes and devices. Memory is one that models are kept in.
_SYSTEM, _SHARED_MEMORY = ("/proc", "/sys", "/dev"), "/dev/shm"


def holds_path(place: str) -> bool:
    """Tell whether a field, by its place in the config, holds a path or a URI of the run's."""
    if ".extra_body." in place:
        # It is sent to an endpoint, whose field of that name may be anything.
        return False
    return place.rsplit(".", 1)[-1] in _PATHS or place == _SAFETY_PROMPTS


def place_problems(leaves: Iterable[tuple[str, object]]) -> Iterator[Problem]:
    """Yield a problem for every place that a run must not read or write; leaves: place and value of each field."""
    for place, value in leaves:
        name = place.rsplit(".", 1)[-1]
        if not isinstance(value, str):
            continue
        if holds_path(place) and (rule := _broken_path(place, value)):
            fix = "name a folder or file, s3://bucket/key or gs://bucket/key, spelled out"
            yield Problem(place, shown(value), rule, fix, "WRPO-C130")
        if name in _ADDRESSES and _is_metadata(value):
            rule = "is the address of a cloud's metadata service, or another link-local one"
            yield Problem(place, shown(value), rule, "name the host that serves it", "WRPO-C131")


def _broken_path(place: str, value: str) -> str | None:
    if place not in _ROOTS and not value.strip():
        return "must not be empty"
    if _CONTROL.search(value) and not (place in _ROOTS and "\0" in value):
        return "must not hold control characters"
    if _SCHEME.match(value):
        return _broken_uri(place, value)
    return _broken_local(value)


def _broken_uri(place: str, value: str) -> str | None:
    # Prompts too: WRPO-D002.
    told_elsewhere = place in _ROOTS or place.endswith("prompts.path")
    if not told_elsewhere and not _BUCKET.fullmatch(value):
        return "must be a path, s3://bucket/key or gs://bucket/key, without user, query or port"
    # `..` names an object of its own in a bucket, and a folder higher up to tools that tidy paths.
    segments = unquote(value).split("/")[3:]
    return "must not hold `.` or `..` between slashes" if {".", ".."} & set(segments) else None


def _broken_local(value: str) -> str | None:
    whole = posixpath.normpath(value)
    # Two leading slashes stay two in POSIX.
    whole = "/" + whole.lstrip("/") if whole.startswith("/") else whole
    inside = [folder for folder in _SYSTEM if whole == folder or whole.startswith(f"{folder}/")]
    if inside and not (whole == _SHARED_MEMORY or whole.startswith(f"{_SHARED_MEMORY}/")):
        return f"{inside[0]} shows the machine and its processes, secrets included"
    return None


def _is_metadata(value: str) -> bool:
    try:
        return is_metadata_host(urlsplit(value).hostname or "")
    except ValueError:
        # The rules of addresses tell.
        return False
