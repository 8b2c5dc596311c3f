"""How the placement group of a replica that spans nodes gets from its actor to the process that its engine lives in.

The process is no worker of Ray's: whatever in it needs the group connects to the cluster as a driver of its own. What
it starts there belongs to that driver, and Ray ends it when the process is gone, killed or not.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ray.util.placement_group import PlacementGroup

_GROUP = "WRPO_RAY_PLACEMENT_GROUP"


def group_environment() -> dict[str, str]:
    """Return what tells a child process of the placement group that this actor lies in, nothing without one."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return {}
    group = ray.util.get_current_placement_group()
    if group is None:
        return {}
    return {_GROUP: group.id.hex(), "RAY_ADDRESS": ray.get_runtime_context().gcs_address}


def given_group() -> PlacementGroup | None:
    """Return the placement group that this process was told of; whoever uses it has to call ray.init() first."""
    name = os.environ.get(_GROUP)
    if name is None:
        return None
    from ray import PlacementGroupID
    from ray.util.placement_group import PlacementGroup

    return PlacementGroup(PlacementGroupID.from_hex(name))
