"""The text of a YAML file that a user names: read whole, or refused with the reason."""

from __future__ import annotations

from pathlib import Path

from wrpo_ray.errors import ConfigError

_MAX_BYTES = 2**20


def read_config_text(path: Path, what: str = "config") -> str:
    """Return the text of the file at `path`; raises ConfigError, which calls the file the `what`.

    What is no regular file is not opened: a pipe would wait for ever, a device has no end.
    """
    title = f"cannot read the {what} {path}"
    try:
        kind, content = _read(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{title}: {reason}", code="WRPO-C002", help="correct the path") from error
    if kind is not None:
        raise ConfigError(f"{title}: {kind}", code="WRPO-C002", help="correct the path")
    if len(content) > _MAX_BYTES:
        rule = f"the {what} {path} has more than {_MAX_BYTES} bytes"
        raise ConfigError(rule, code="WRPO-C002", help="is this the right file?")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{title}: {error}", code="WRPO-C002", help="save it as UTF-8") from error


def _read(path: Path) -> tuple[str | None, bytes]:
    """Return what the file is instead of a regular one, or None, and its beginning; ValueError: no path at all."""
    if path.exists() and not path.is_file():
        return "Is a directory" if path.is_dir() else "it is no regular file", b""
    with path.open("rb") as stream:
        return None, stream.read(_MAX_BYTES + 1)
