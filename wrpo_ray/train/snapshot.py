"""The state of one rank after a step, held in the node's memory until somebody writes it.

DeepSpeed hands every file of a checkpoint to its checkpoint engine (deepspeed/runtime/checkpoint_engine in 0.19.8).
One that keeps copies takes that place for a moment, so training stops for a copy to memory and not for the writing.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_Copies = dict[tuple[Any, ...], torch.Tensor]


class Held:
    """Takes the place of DeepSpeed's checkpoint engine: copies what is to be saved, and writes it when told to."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self._files: list[tuple[Any, str]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def preserves_storage_sharing(self) -> bool:
        """Keep DeepSpeed from making a copy of its own before `save`."""
        return False

    def save(self, state_dict: Any, path: str) -> None:
        """Keep a copy of `state_dict`, to be written to `path`."""
        self._files.append((copied(state_dict, {}), path))

    def write(self) -> None:
        """Write every file that was kept, and let go of it."""
        while self._files:
            self._real.save(*self._files.pop(0))


@contextmanager
def held(engine: Any) -> Iterator[Held]:
    """Give the DeepSpeed engine a checkpoint engine that keeps copies, for as long as the body runs."""
    real = engine.checkpoint_engine
    engine.checkpoint_engine = Held(real)
    try:
        yield engine.checkpoint_engine
    finally:
        engine.checkpoint_engine = real


def copied(value: Any, copies: _Copies) -> Any:
    """Return `value` with all tensors on the CPU, such that nothing that training changes later shows in it.

    copies: of the tensors in the same state, which must all be alive: a parameter with two names is copied once.
    """
    if isinstance(value, torch.Tensor):
        return _on_host(value, copies)
    if type(value) in (dict, OrderedDict):
        return type(value)((key, copied(item, copies)) for key, item in value.items())
    if type(value) in (list, tuple):
        return type(value)(copied(item, copies) for item in value)
    return copy.deepcopy(value)


def _on_host(tensor: torch.Tensor, copies: _Copies) -> torch.Tensor:
    place = (tensor.data_ptr(), tensor.device, tensor.shape, tensor.stride(), tensor.dtype)
    if place not in copies or not tensor.numel():
        # Without `copy` a tensor of the CPU would stay the one that the next step changes.
        copies[place] = tensor.detach().to("cpu", copy=True)
    return copies[place]
