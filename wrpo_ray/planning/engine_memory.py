"""Memory of engines: weights, the cache of one whole sequence, and what one step computes."""

from __future__ import annotations

from dataclasses import replace

from wrpo_ray.config import EngineConfig, ResourcesConfig, TransformersRewardConfig
from wrpo_ray.errors import Problem
from wrpo_ray.planning.accelerators import ACCELERATORS, Accelerator
from wrpo_ray.planning.fit import CONTEXT_BYTES, USABLE_SHARE, Fit, shortage
from wrpo_ray.planning.shapes import ModelShape

# Bytes of a weight; what is computed with stays in 16 bits unless it is fp8.
_QUANTIZED_BYTES = {
    "fp8": 1.0, "modelopt": 1.0, "compressed-tensors": 1.0, "bitsandbytes": 0.56, "awq": 0.56, "awq_marlin": 0.56,
    "gptq": 0.56, "gptq_marlin": 0.56,
}  # fmt: skip
_TENSOR_PARALLEL_SIZES = (1, 2, 4, 8, 16)


def weight_bytes(engine: EngineConfig, place: str, quantization: str | None = None) -> float | Problem:
    """Return the bytes of one weight on the accelerator.

    quantization: what the model's own files say, by which vLLM goes where the config says nothing.
    """
    if engine.quantization is None:
        if quantization in _QUANTIZED_BYTES:
            return _QUANTIZED_BYTES[quantization]
        return 4.0 if engine.dtype == "float32" else 2.0
    if engine.quantization in _QUANTIZED_BYTES:
        return _QUANTIZED_BYTES[engine.quantization]
    known = ", ".join(_QUANTIZED_BYTES)
    rule = "the plan does not know how many bytes a weight takes"
    return Problem(f"{place}.engine.quantization", engine.quantization, rule, f"known: {known}", "WRPO-C063")


def kv_bytes(shape: ModelShape, engine: EngineConfig) -> float:
    """Return the bytes of one token in the cache, over all accelerators of an engine."""
    cache = engine.extra_args.get("kv_cache_dtype", "auto")
    if isinstance(cache, str) and cache.startswith("fp8"):
        return shape.kv_width * 1.0
    return shape.kv_width * (4.0 if engine.dtype == "float32" else 2.0)


def kv_copies(shape: ModelShape, engine: EngineConfig) -> float:
    """Return how many accelerators hold the same part of the cache: vLLM copies what it cannot split by heads."""
    return max(1.0, engine.tensor_parallel_size / shape.kv_heads)


def usable_memory(engine: EngineConfig, resources: ResourcesConfig, accelerator: Accelerator) -> float | None:
    """Return the bytes that an engine may take of all its accelerators together."""
    if accelerator.memory is None:
        return None
    return engine.gpu_memory_utilization * accelerator.memory * max(1.0, resources.num_gpus)


def engine_fit(
    place: str,
    shape: ModelShape,
    engine: EngineConfig,
    bytes_per_weight: float,
    accelerator: Accelerator,
    max_tokens: int = 512,
) -> Fit:
    """Return whether an engine can start, and the smallest tensor_parallel_size with which it could.

    max_tokens: of a response; a shorter context that is proposed still holds more.
    """
    parts = _parts(shape, engine, bytes_per_weight)
    if accelerator.memory is None:
        return Fit(place, accelerator.name, parts, None)
    available = engine.gpu_memory_utilization * accelerator.memory
    reason = _indivisible(shape, engine.tensor_parallel_size) or shortage(parts, available, accelerator.name)
    fix = _fix(shape, engine, bytes_per_weight, accelerator, max_tokens) if reason else ""
    return Fit(place, accelerator.name, parts, available, reason, fix)


def _parts(shape: ModelShape, engine: EngineConfig, bytes_per_weight: float) -> tuple[tuple[str, float], ...]:
    split = engine.tensor_parallel_size
    gpus = split * engine.pipeline_parallel_size
    one_sequence = engine.max_model_len * kv_bytes(shape, engine) * kv_copies(shape, engine)
    width = 4.0 if engine.dtype == "float32" else 2.0
    step = engine.max_num_batched_tokens * width * (4 * shape.hidden + 3 * shape.intermediate / split)
    # Logits in 32 bits, and their copy while they are sampled.
    logits = engine.max_num_seqs * shape.vocabulary * 8.0
    return (
        ("weights", shape.parameters * bytes_per_weight / gpus),
        ("cache of one sequence", one_sequence / gpus),
        ("one step", step + logits),
        ("CUDA", CONTEXT_BYTES),
    )


def _indivisible(shape: ModelShape, split: int) -> str:
    if shape.heads % split:
        return f"tensor_parallel_size {split} does not divide its {shape.heads} attention heads"
    if shape.kv_heads % split and split % shape.kv_heads:
        return f"tensor_parallel_size {split} and its {shape.kv_heads} key-value heads do not divide each other"
    return ""


def _works(shape: ModelShape, engine: EngineConfig, bytes_per_weight: float, memory: float) -> bool:
    needed = sum(size for _, size in _parts(shape, engine, bytes_per_weight))
    return not _indivisible(shape, engine.tensor_parallel_size) and needed <= engine.gpu_memory_utilization * memory


def _fix(
    shape: ModelShape, engine: EngineConfig, bytes_per_weight: float, accelerator: Accelerator, max_tokens: int
) -> str:
    """Return the smallest changes that would do, one of each kind."""
    memory = accelerator.memory or 0.0
    ways = []
    for size in _TENSOR_PARALLEL_SIZES:
        if _works(shape, engine.model_copy(update={"tensor_parallel_size": size}), bytes_per_weight, memory):
            gpus = size * engine.pipeline_parallel_size
            ways.append(f"engine.tensor_parallel_size: {size} with resources.num_gpus: {gpus}")
            break
    for length in range((engine.max_model_len - 1) // 256 * 256, max_tokens, -256):
        if _works(shape, engine.model_copy(update={"max_model_len": length}), bytes_per_weight, memory):
            ways.append(f"engine.max_model_len: {length}")
            break
    larger = [
        other.name for other in ACCELERATORS.values()
        if other.memory and other.memory > memory and _works(shape, engine, bytes_per_weight, other.memory)
    ]  # fmt: skip
    if larger:
        smallest = min((ACCELERATORS[name] for name in larger), key=lambda other: (other.memory or 0.0, other.bf16))
        ways.append(f"{smallest.name} instead of {accelerator.name}")
    return ", or ".join(ways) or "no tensor_parallel_size up to 16 will do: raise pipeline_parallel_size"


def reward_fit(place: str, shape: ModelShape, reward: TransformersRewardConfig, accelerator: Accelerator) -> Fit:
    """Return whether a reward model that transformers runs fits, and the largest batch with which it does."""
    if accelerator.memory is None:
        return Fit(place, accelerator.name, _reward_parts(shape, reward), None)
    gpus = reward.resources.num_gpus
    available = USABLE_SHARE * accelerator.memory * min(1.0, gpus)
    parts = _reward_parts(shape, reward)
    fit = Fit(place, accelerator.name, parts, available, shortage(parts, available, accelerator.name))
    if fit.fits:
        return fit
    tokens = reward.max_batch_tokens
    while tokens > reward.max_model_len:
        tokens = max(reward.max_model_len, tokens // 2)
        if not shortage(_reward_parts(shape, reward, tokens), available, accelerator.name):
            return replace(fit, fix=f"max_batch_tokens: {tokens}")
    return replace(fit, fix="a reward model on one accelerator needs a larger one; resources.accelerator_type names it")


def _reward_parts(
    shape: ModelShape, reward: TransformersRewardConfig, tokens: int | None = None
) -> tuple[tuple[str, float], ...]:
    width = 4.0 if reward.dtype == "float32" else 2.0
    step = (tokens or reward.max_batch_tokens) * width * (4 * shape.hidden + 3 * shape.intermediate)
    return (("weights", shape.parameters * width), ("one pass", step), ("CUDA", CONTEXT_BYTES))
