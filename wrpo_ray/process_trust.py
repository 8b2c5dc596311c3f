"""Settings of a process that would let what it is sent, or what it reads, run code in it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from wrpo_ray.errors import ConfigError

_OFF = frozenset({"", "0", "false", "no"})
UNSAFE_VARIABLES = {
    "VLLM_ALLOW_INSECURE_SERIALIZATION": "vLLM unpickles what other processes send it",
    "RAY_DATA_AUTOLOAD_PICKLE_OBJECT_SCALAR": "Ray unpickles objects out of data files",
    "RAY_DATA_AUTOLOAD_PYEXTENSIONTYPE": "Ray unpickles the types of data files",
}


def require_safe_process(environment: Mapping[str, str] = os.environ, optimized: int = sys.flags.optimize) -> None:
    """Raise ConfigError when this process was started with a setting that takes a check away.

    optimized: Python's level of optimisation. From 1 on it drops assertions, which libraries check input with
    (CVE-2026-41523 in vLLM).
    """
    for name, consequence in UNSAFE_VARIABLES.items():
        if environment.get(name, "").strip().lower() not in _OFF:
            raise ConfigError(
                f"with {name} set, {consequence}", code="WRPO-C122", help="unset it, here and on all nodes"
            )
    if optimized:
        raise ConfigError(
            "Python drops assertions (PYTHONOPTIMIZE or -O), and with them checks of libraries", code="WRPO-C122",
            help="unset PYTHONOPTIMIZE, here and on all nodes",
        )  # fmt: skip
