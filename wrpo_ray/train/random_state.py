"""Everything random that a worker draws from, as a file: Python, numpy, torch on the CPU and on every GPU."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy
import torch


def seed_everything(seed: int) -> None:
    """Start all generators anew; seed: 0 to 2**32 - 1."""
    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)


def random_state() -> dict[str, Any]:
    """Return the state of all generators as plain values and tensors, so that reading it back runs no code."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = numpy.random.get_state(legacy=True)
    return {
        "python": {"version": version, "words": list(words), "gauss": gauss},
        "numpy": {
            "name": str(name), "keys": [int(key) for key in keys], "position": int(position),
            "has_gauss": int(has_gauss), "cached": float(cached),
        },
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }  # fmt: skip


def restore_random_state(state: dict[str, Any]) -> None:
    """Put all generators where `random_state` found them."""
    python, legacy = state["python"], state["numpy"]
    random.setstate((python["version"], tuple(python["words"]), python["gauss"]))
    keys = numpy.array(legacy["keys"], dtype=numpy.uint32)
    numpy.random.set_state((legacy["name"], keys, legacy["position"], legacy["has_gauss"], legacy["cached"]))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def save_random_state(path: Path) -> None:
    """Write the state of all generators to `path`."""
    torch.save(random_state(), path)


def load_random_state(path: Path) -> None:
    """Put all generators where `save_random_state` found them."""
    restore_random_state(torch.load(path, weights_only=True))
