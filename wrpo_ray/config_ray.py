"""Which Ray cluster runs a job, and how."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from wrpo_ray.config_base import Frozen, PositiveInt


class RayConfig(Frozen):
    """Which Ray cluster runs the job."""

    address: str | None = None
    """`local` starts one; none uses RAY_ADDRESS (set inside `ray job submit`) and starts a local one without it."""
    num_cpus: PositiveInt | None = None
    """Logical CPUs of a local cluster; none counts the machine's cores."""
    log_to_driver: bool = False
    """Repeat what the workers print; Ray's session folder keeps it in any case."""
    num_models_ahead: Annotated[int, Field(ge=0)] = 1
    """Models whose files are brought to the nodes before their turn, while others work; 0 waits with each."""
    allow_open_cluster: bool = False
    """Work on a cluster without token authentication too: whoever reaches it can run code on all of its nodes."""
