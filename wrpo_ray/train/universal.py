"""A checkpoint for another number of ranks, or another ZeRO stage, than the one that wrote it.

DeepSpeed's universal checkpoint keeps whole parameters: zero/<parameter>/{fp32,exp_avg,exp_avg_sq,step}.pt. What its
converter leaves out because the same stage does not read it is added here, so that stages 1, 2 and 3 read each other's.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from wrpo_ray.errors import ConfigError

UNIVERSAL = "universal"
_SHARDED_PARAMETERS = 3
_MODEL_STATES = ("mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_model_states.pt")


def fits(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Tell whether a checkpoint can be loaded as it is; without ZeRO every rank holds the same and needs the same."""
    same_stage = stored["zero_stage"] == wanted["zero_stage"]
    return same_stage and (stored["zero_stage"] == 0 or stored["world_size"] == wanted["world_size"])


def require_convertible(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise ConfigError when a checkpoint with ZeRO is to be loaded without it, or the other way round."""
    if not fits(stored, wanted) and 0 in (stored["zero_stage"], wanted["zero_stage"]):
        raise ConfigError(
            f"`zero_stage` is {wanted['zero_stage']}, the checkpoint to go on from was written with"
            f" {stored['zero_stage']}: float32 training without ZeRO and with it cannot read each other's checkpoints",
            code="WRPO-T005",
            help=f"set `zero_stage: {stored['zero_stage']}` again, or remove the step's scratch folder to start over",
        )


def convert(source: Path, destination: Path, zero_stage: int) -> None:
    """Write DeepSpeed's checkpoint in `source` as a universal one for training in `zero_stage` (1, 2 or 3)."""
    from wrpo_ray.train import zero

    zero.to_universal(source, destination)
    _complete(destination, _adam_step(source))
    if zero_stage < _SHARDED_PARAMETERS:
        _give_shapes(destination)


def _adam_step(source: Path) -> torch.Tensor:
    """Return how often Adam has stepped: every parameter has the same number, in all stages."""
    optimizer = _load(next(source.glob("*zero_pp_rank_0_*optim_states.pt")))["optimizer_state_dict"]
    groups = optimizer.get("base_optimizer_state", optimizer.get("optimizer_state_dict"))["state"]
    return torch.as_tensor(groups[0]["step"])


def _load(path: Path) -> Any:
    # Our own file, whose hash has been compared; classes of DeepSpeed's in it are why it has to be unpickled.
    return torch.load(path, map_location="cpu", weights_only=False)


def _complete(folder: Path, step: torch.Tensor) -> None:
    """Add what one stage writes and another one looks for."""
    present = next(folder / name for name in _MODEL_STATES if (folder / name).exists())
    for name in _MODEL_STATES:
        if not (folder / name).exists():
            shutil.copyfile(present, folder / name)
    place = folder / "zero" / "optimizer_state.pt"
    state = _load(place)
    state.setdefault("ds_version", _load(present)["ds_version"])
    # ZeRO 3 looks here for settings and step, ZeRO 1 and 2 look for `param_groups` and a step beside each parameter.
    state.setdefault("optimizer_state_dict", {"state": {0: {"step": step}}, "param_groups": state["param_groups"]})
    torch.save(state, place)
    for parameter in _parameters(folder):
        if not (parameter / "step.pt").exists():
            torch.save(step, parameter / "step.pt")


def _parameters(folder: Path) -> list[Path]:
    """Return the folders of all parameters that are trained; one that is frozen has no optimizer state."""
    return sorted(path.parent for path in (folder / "zero").rglob("exp_avg.pt"))


def _give_shapes(folder: Path) -> None:
    """Put parameters that were written flat, by ZeRO 3, into the form of ZeRO 1 and 2."""
    groups = _load(folder / _MODEL_STATES[1])["param_shapes"]
    shapes = {
        name: shape for group in (groups if isinstance(groups, list) else [groups]) for name, shape in group.items()
    }
    for parameter in _parameters(folder):
        for name in ("fp32", "exp_avg", "exp_avg_sq"):
            value = _load(parameter / f"{name}.pt")
            if isinstance(value, torch.Tensor):
                torch.save({"param": value.view(shapes[parameter.name]), "cat_dim": 0}, parameter / f"{name}.pt")
