"""The one place that knows which generator belongs to which kind of model."""

from __future__ import annotations

from typing import Any

from wrpo_ray.config import OpenAISourceConfig, SourceConfig
from wrpo_ray.engines.protocol import Generator


def load_generator(model: SourceConfig, run_seed: int, identity: str, **arguments: Any) -> Generator:
    """Return a started generator; `arguments` are what its kind alone takes. Module-level, so that Ray can send it."""
    if isinstance(model, OpenAISourceConfig):
        from wrpo_ray.engines.openai_generator import OpenAIGenerator

        return OpenAIGenerator(model, run_seed, identity, **arguments)
    from wrpo_ray.engines.vllm_generator import VllmGenerator

    return VllmGenerator(model, run_seed, identity, **arguments)
