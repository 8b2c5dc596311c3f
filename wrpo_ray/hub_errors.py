"""What the Hugging Face hub's client raises, as errors that say what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from wrpo_ray.errors import ModelError


class Reason(NamedTuple):
    """Why the hub does not give a model. field: of the model's section that is to be looked at."""

    field: str
    rule: str
    fix: str
    code: str


@contextmanager
def hub_errors(name: str, revision: str | None) -> Iterator[None]:
    """Raise ModelError in place of what the hub's client raises about the model `name`."""
    from httpx2 import HTTPError
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError

    try:
        yield
    except (OSError, HTTPError, EntryNotFoundError, HFValidationError) as error:
        reason = why_not(name, error)
        at = f" at {revision}" if revision else ""
        told = HubError(f"{name}{at}: {reason.rule}", code=reason.code, help=reason.fix)
        told.reason = reason
        raise told from error


class HubError(ModelError):
    """The hub does not give a model. reason: the same in parts, gone when the error was pickled."""

    reason: Reason | None = None


def why_not(name: str, error: BaseException) -> Reason:
    """Return why a model cannot be had, by what the client raised."""
    from huggingface_hub import errors

    if isinstance(error, errors.HFValidationError):
        rule = "neither a folder nor a hub name of the form organisation/name"
        return Reason("path", rule, "correct the path", "WRPO-M002")
    if isinstance(error, errors.GatedRepoError):
        rule = "the hub gives this model only to accounts that accepted its terms"
        return Reason("path", rule, "accept them on its page and log in with `hf auth login`", "WRPO-M012")
    if isinstance(error, errors.RevisionNotFoundError):
        return Reason("revision", "no such revision on the hub", "correct it", "WRPO-M011")
    if isinstance(error, errors.LocalEntryNotFoundError):
        return _out_of_reach(name, error)
    if isinstance(error, errors.EntryNotFoundError):
        return Reason("path", "the hub model holds no config.json", "name another model", "WRPO-M003")
    if isinstance(error, errors.RepositoryNotFoundError):
        rule = "no such folder, and no such model on the hub (or it is private)"
        return Reason("path", rule, "correct the path, or log in with `hf auth login`", "WRPO-M011")
    return _out_of_reach(name, error)


def _out_of_reach(name: str, error: BaseException) -> Reason:
    """Return why a model is neither cached nor fetched: the hub's answer if there was one."""
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError):
        rule = f"its files cannot be kept on this machine: {error.strerror}"
        return Reason("path", rule, "HF_HOME names the folder for them, WRPO_RAY_CACHE the one for links", "WRPO-M013")
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    status = getattr(response, "status_code", None)
    if status in (401, 403):
        rule = f"the hub refuses access (HTTP {status})"
        fix = "correct the token in HF_TOKEN or log in with `hf auth login`; the account needs access to this model"
        return Reason("path", rule, fix, "WRPO-M012")
    if status is not None:
        return Reason("path", f"the hub answers HTTP {status}", "try again later", "WRPO-M013")
    rule = "no such folder, and the hub's copy is neither cached nor within reach"
    fix = f"correct the path, or fetch it where there is a network: wrpo-ray fetch CONFIG, or hf download {name}"
    return Reason("path", rule, fix, "WRPO-M013")
