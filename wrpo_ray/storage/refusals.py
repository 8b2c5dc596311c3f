"""What the errors of obstore mean: an answer that stays, with its reason, or one that may pass."""

from __future__ import annotations

import re

from obstore import exceptions

from wrpo_ray.errors import StorageError

_STATUS = re.compile(r"non-2xx status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_MESSAGE = re.compile(r"<Message>([^<]*)</Message>")
_QUERY = re.compile(r"(https?://[^\s?]+)\?\S+")
_LONGEST_REASON = 300
_TRANSIENT_STATUS = {408, 409, 425, 429}
_TRANSIENT_CODES = {"RequestTimeout", "SlowDown", "InternalError", "OperationAborted"}
_REGION_CODES = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}

_CREDENTIALS = (
    "check the credentials in the environment (AWS_ACCESS_KEY_ID, AWS_SESSION_TOKEN, AWS_WEB_IDENTITY_TOKEN_FILE;"
    " GOOGLE_APPLICATION_CREDENTIALS) and that they may get, put, list and delete below the run's folder"
)
_REGION = "set AWS_REGION to the region of the bucket"
_CONDITIONS = "use a store with conditional writes (If-None-Match), or a shared file system"
_HTTP = "an endpoint without TLS needs AWS_ALLOW_HTTP=true"


def reason(error: BaseException) -> str:
    """Return what an error says in a few words, without query strings: those can hold tokens."""
    text = str(error).split("\n\nDebug source:")[0].replace("\n", " ")
    if status := _first(_STATUS, text):
        words = [f"HTTP {status}", _first(_CODE, text), _first(_MESSAGE, text)]
        return " ".join(word for word in words if word)[:_LONGEST_REASON]
    return _QUERY.sub(r"\1", text.split(" - ")[-1])[:_LONGEST_REASON].strip()


def refusal(error: BaseException, verb: str, uri: str) -> StorageError | None:
    """Return the error to raise when trying again cannot help, None when it may.

    Statuses and texts: object_store's RetryError and S3's list of error codes,
    https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
    """
    found = _refused(error, verb)
    if found is None:
        return None
    code, rule, help_text = found
    return StorageError(f"cannot {verb} {uri}: {rule} ({reason(error)})", code=code, help=help_text)


def _refused(error: BaseException, verb: str) -> tuple[str, str, str | None] | None:
    text = str(error)
    status, code = _first(_STATUS, text), _first(_CODE, text)
    if code == "NoSuchBucket" or (status == "404" and "list request" in text):
        return "WRPO-S005", "the bucket does not exist", "create the bucket, or correct `run.root`"
    if code in _REGION_CODES or status in ("301", "307") or "Received redirect without LOCATION" in text:
        return "WRPO-S006", "the bucket lies in another region", _REGION
    if isinstance(error, (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError)) or status in (
        "401",
        "403",
    ):
        return "WRPO-S004", "access is denied", _CREDENTIALS
    if "builder error" in text or "URL scheme is not allowed" in text:
        return "WRPO-S009", "the endpoint cannot be called", _HTTP
    if status == "501" and verb == "create":
        return "WRPO-S007", "the store has no conditional writes, so two drivers could both win", _CONDITIONS
    if status == "501" or isinstance(error, exceptions.NotSupportedError):
        return "WRPO-S009", "the store cannot do that", None
    if isinstance(error, (ValueError, exceptions.InvalidPathError, exceptions.UnknownConfigurationKeyError)):
        return "WRPO-S009", "that is no name of an object", None
    return _other_status(status, code)


def _other_status(status: str | None, code: str | None) -> tuple[str, str, str | None] | None:
    if status is None or int(status) >= 500 or int(status) in _TRANSIENT_STATUS or code in _TRANSIENT_CODES:
        return None
    return "WRPO-S009", f"the store refuses it with HTTP {status}", None


def _first(pattern: re.Pattern[str], text: str) -> str | None:
    found = pattern.search(text)
    return found.group(1) if found else None
