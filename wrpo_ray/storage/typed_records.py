"""Records of a run's folder as typed values.

A record's own hash tells that nobody changed it by accident. That it holds what its reader expects, only a look at
every field tells: another version, or somebody who computed the hash anew, may have written it.
"""

from __future__ import annotations

import functools
import json
import re
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from wrpo_ray.errors import StorageError
from wrpo_ray.storage.location import Location, is_path_below

T = TypeVar("T")
_REPAIR = "`wrpo-ray inspect RUN --repair` removes it, so that it is made again"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")


def typed_record(kind: type[T], raw: Any, place: Location, what: str, code: str, help: str = _REPAIR) -> T:
    """Return the record `raw`, read at `place`, as a dataclass; types are strict, as in a config.

    what: the record in words ("a manifest"). Raises StorageError with `code` that names the first field that is wrong.
    """
    try:
        return _adapter(kind).validate_json(json.dumps(raw), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        field = ".".join(map(str, first["loc"])) or "it"
        raise StorageError(
            f"{place} is not {what} of this version: {field.encode('ascii', 'backslashreplace').decode()}:"
            f" {first['msg'][0].lower()}{first['msg'][1:]}", code=code, help=help,
        ) from error  # fmt: skip


@functools.cache
def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def require_path_below(path: str) -> None:
    """Raise ValueError unless `path` stays below the folder that it is relative to; see location.is_path_below."""
    if not is_path_below(path):
        raise ValueError("must be a path below the step's folder, without empty parts, `.` and `..`")


def require_name(name: str) -> None:
    """Raise ValueError unless `name` can be that of a folder below the run."""
    if not _NAME.fullmatch(name):
        raise ValueError("must be a name of letters, digits, `.`, `_` and `-`")
