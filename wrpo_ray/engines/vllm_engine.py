"""How a vLLM engine is started, for generation and for scoring alike.

vLLM is imported inside functions, so that a driver without it can still plan a run.
"""

from __future__ import annotations

import gc
import os
from typing import TYPE_CHECKING, Any

from wrpo_ray.config import EngineConfig, ModelFiles
from wrpo_ray.config_engine_rules import require_allowed
from wrpo_ray.engines.groups import given_group
from wrpo_ray.loopback import keep_stores_on_loopback
from wrpo_ray.models import on_node
from wrpo_ray.process_trust import require_safe_process

if TYPE_CHECKING:
    from vllm import LLM

# Measured on 2 cores: in-process start takes 15 s instead of 47 s. The KV cache of a CPU engine is sized in GiB.
# Without a GPU vLLM pins its threads to cores; replicas that share a machine would pin themselves to the same ones.
CPU_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}


def start_engine(files: ModelFiles, engine: EngineConfig, num_gpus: float, **arguments: Any) -> LLM:
    """Return a started engine; `arguments` are further vLLM arguments of the caller (runner, seed).

    More than one GPU means worker processes of one node ("mp"): Ray then counts the GPUs on the actor itself, and
    nothing is left reserved when the actor ends. Only an engine larger than a node has actors of Ray's for workers, in
    a placement group that data.replicas removes (Ray Data's would stay: https://github.com/ray-project/ray/issues/64035).
    """
    require_safe_process()
    if num_gpus == 0:
        for name, value in CPU_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
    keep_stores_on_loopback()
    from vllm import LLM

    return LLM(**engine_arguments(files, engine, num_gpus), **arguments)


def engine_arguments(files: ModelFiles, engine: EngineConfig, num_gpus: float) -> dict[str, Any]:
    """Return vLLM's arguments of an engine, under vLLM's names; raises ConfigError for one that is not let through."""
    require_allowed(engine.extra_args)
    world_size = engine.tensor_parallel_size * engine.pipeline_parallel_size
    defaults: dict[str, Any] = {
        "load_format": "safetensors",
        "disable_log_stats": True,
        "enable_prefix_caching": True,
        "distributed_executor_backend": _executor(world_size),
    }
    if num_gpus == 0:
        # vLLM 0.32 on a CPU cannot draw with a seed for a prompt that it reads in two pieces.
        defaults["enable_chunked_prefill"] = False
    own: dict[str, Any] = {"model": on_node(files).path, "trust_remote_code": files.trust_remote_code}
    return {**defaults, **engine.model_dump(exclude={"extra_args"}), **engine.extra_args, **own}


def _executor(world_size: int) -> Any:
    """Return what runs vLLM's workers: the placement group that this process was given, or processes of this node."""
    if given_group() is not None:
        from wrpo_ray.engines.spanning_executor import SpanningExecutor

        return SpanningExecutor
    return "mp" if world_size > 1 else "uni"


def engine_is_dead(engine: LLM) -> bool:
    """Tell whether the process of the engine's core is gone."""
    resources = getattr(engine.llm_engine.engine_core, "resources", None)
    return getattr(resources, "engine_dead", False)


def stop_engine(engine: LLM) -> None:
    """Shut the engine down and free what it held."""
    engine.llm_engine.engine_core.shutdown()
    gc.collect()
