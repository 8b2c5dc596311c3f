"""What a contestant tells of itself while it works; a module of its own, so that an engine process can import it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from wrpo_ray.config import ModelConfig
from wrpo_ray.engines.vllm_generator import VllmGenerator


def note(place: Path, event: str, **values: Any) -> None:
    """Append one event; O_APPEND keeps the lines of several processes whole."""
    with place.open("ab") as stream:
        stream.write((json.dumps({"event": event, "at": time.monotonic(), **values}) + "\n").encode())


class NotingGenerator(VllmGenerator):
    """Ours, and it notes when it is ready."""

    def __init__(self, place: str, model: ModelConfig, run_seed: int, identity: str) -> None:
        super().__init__(model, run_seed, identity)
        note(Path(place), "ready")
