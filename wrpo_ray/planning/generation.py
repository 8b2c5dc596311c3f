"""How fast an engine draws responses when it always has enough requests.

A step decodes one token of each of B sequences. It reads all weights and the caches once, or computes 2 FLOP per
active parameter and token, whichever takes longer; prompts are computed once for all of their samples. Engines reach
60 % of that in decoding and 50 % in reading prompts: fitted to 28 points of NVIDIA's table for TensorRT-LLM 1.0
(https://github.com/NVIDIA/TensorRT-LLM, docs/source/performance/perf-overview.md at 00f3768), which then lie between
0.64 and 1.20 of what these formulas give, 0.98 in the median.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

DECODE_EFFICIENCY = 0.6
PREFILL_EFFICIENCY = 0.5
Bound = Literal["compute", "memory bandwidth", "KV capacity", "start-up", "rate limit", "endpoint"]


@dataclass(frozen=True)
class Engine:
    """One replica: a model on `gpus` accelerators.

    flops, bandwidth: of one accelerator, per second, the latter in bytes. memory: bytes of all of them that the engine
    may use, None for as many as it likes. kv_bytes: of one token in the cache. kv_copies: how many of the accelerators
    hold the same part of the cache.
    """

    gpus: float
    flops: float
    bandwidth: float
    memory: float | None
    parameters: float
    active_parameters: float
    weight_bytes: float
    kv_bytes: float
    max_num_seqs: int
    kv_copies: float = 1.0


@dataclass(frozen=True)
class Requests:
    """What is asked of a model: prompts, samples of each, and mean lengths in tokens."""

    prompts: float
    samples: float
    prompt_tokens: float
    response_tokens: float

    @property
    def output_tokens(self) -> float:
        return self.prompts * self.samples * self.response_tokens


@dataclass(frozen=True)
class Generation:
    """What it takes: `batch` sequences side by side, accelerator-seconds, FLOPs, and what holds it up.

    capacity: sequences that the cache would hold, None for as many as one likes.
    """

    batch: float
    capacity: float | None
    gpu_seconds: float
    flops: float
    bound: Bound
    decode_tokens_per_gpu_s: float
    """Output tokens of one accelerator per second while it decodes at the roof, times DECODE_EFFICIENCY."""


def generation(engine: Engine, requests: Requests) -> Generation:
    """Return what drawing all responses takes, without start and end of the engine."""
    capacity = _capacity(engine, requests)
    batch = engine.max_num_seqs if capacity is None else min(engine.max_num_seqs, capacity)
    memory_s, compute_s = _step(engine, requests, batch)
    prefill_flops = 2 * engine.active_parameters * requests.prompts * requests.prompt_tokens
    prefill_s = prefill_flops / (engine.gpus * engine.flops * PREFILL_EFFICIENCY)
    tokens_per_s = batch / max(memory_s, compute_s) * DECODE_EFFICIENCY
    decode_s = requests.output_tokens / tokens_per_s
    in_memory: Bound = "memory bandwidth" if batch == engine.max_num_seqs else "KV capacity"
    return Generation(
        batch=batch,
        capacity=capacity,
        gpu_seconds=engine.gpus * (prefill_s + decode_s),
        flops=prefill_flops + 2 * engine.active_parameters * requests.output_tokens,
        bound=in_memory if memory_s > compute_s else "compute",
        decode_tokens_per_gpu_s=tokens_per_s / engine.gpus,
    )


def tail_s(engine: Engine, requests: Requests, max_tokens: int) -> float:
    """Return how long the last, longest responses go on when all others are done: steps that only read weights."""
    step_s = engine.parameters * engine.weight_bytes / (engine.gpus * engine.bandwidth)
    return max(0.0, max_tokens - requests.response_tokens) * step_s / DECODE_EFFICIENCY


def _capacity(engine: Engine, requests: Requests) -> float | None:
    """Return how many sequences the cache holds, at least one."""
    if engine.memory is None:
        return None
    cache = engine.memory - engine.parameters * engine.weight_bytes
    # Samples share their prompt's cache; on average a response is half written.
    tokens = requests.prompt_tokens / requests.samples + requests.response_tokens / 2
    return max(1.0, cache / (engine.kv_bytes * engine.kv_copies * tokens))


def _step(engine: Engine, requests: Requests, batch: float) -> tuple[float, float]:
    """Return the seconds that one step takes for memory and for arithmetic."""
    tokens = requests.prompt_tokens + requests.response_tokens / 2
    cache_bytes = batch * engine.kv_bytes * engine.kv_copies * tokens
    memory_s = (engine.parameters * engine.weight_bytes + cache_bytes) / (engine.gpus * engine.bandwidth)
    return memory_s, 2 * engine.active_parameters * batch / (engine.gpus * engine.flops)
