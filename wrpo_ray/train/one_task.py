"""A function called on a node of the cluster, so that the driver neither loads nor holds what it works on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from wrpo_ray.claims import current_grant
from wrpo_ray.errors import InterruptedRunError, raise_own
from wrpo_ray.redaction import last_line, redact_logs
from wrpo_ray.storage.location import Location, locate

Given = TypeVar("Given")
Result = TypeVar("Result")
# The scheduler may want the step to stop.
_LOOK_EVERY_S = 1.0


def in_one_task(
    function: Callable[[Given], Result], given: Given, folder: Location, num_cpus: float, what: str,
    options: Mapping[str, Any] | None = None,
) -> Result:  # fmt: skip
    """Return what `function` returns for `given`, called in a task of the cluster, or here where there is none.

    function: module-level; may run twice when a node is lost. folder: that it writes to; the nodes must know it by its
    name. what: is made, for a message. options: further ones of Ray's task (num_gpus, say).
    Raises what `function` raises, and InterruptedRunError when Ray cannot run it.
    """
    if not _has_cluster(folder):
        return function(given)
    import ray
    from ray.exceptions import RayError, RayTaskError

    task: Any = ray.remote(num_cpus=num_cpus, **(options or {}))(_call)
    waiting, is_over = task.remote(function, given), False
    try:
        while not is_over:
            _stop_if_asked()
            is_over = bool(ray.wait([waiting], timeout=_LOOK_EVERY_S)[0])
        return ray.get(waiting)
    except RayError as error:
        cause = getattr(error, "cause", None)
        # What Ray raises is of the error's class too, and no more than a copy of its text.
        raise_own(cause or error)
        if isinstance(error, RayTaskError) and isinstance(cause, Exception):
            raise cause from error
        raise InterruptedRunError(
            f"{folder}: Ray could not make {what}: {type(error).__name__}: {last_line(str(error))}",
            code="WRPO-E008", help="--debug shows all of it; then run the same command again",
        ) from error  # fmt: skip
    finally:
        # Ray 2.60 kills the driver for cancelling a task whose result has just come: "Tried to complete task that was
        # not pending", task_manager.cc.
        if not is_over:
            ray.cancel(waiting, force=True)


def _call(function: Callable[[Given], Result], given: Given) -> Result:
    redact_logs()
    return function(given)


def _has_cluster(folder: Location) -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized() and locate(str(folder)) == folder


def _stop_if_asked() -> None:
    grant = current_grant()
    if grant is not None:
        grant.raise_if_stopped()
