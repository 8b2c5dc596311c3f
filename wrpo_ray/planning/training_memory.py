"""Memory of one training worker: weights, gradients, optimizer, activations, by ZeRO stage, offload and LoRA.

Weights, gradients and states as in "ZeRO: Memory Optimizations", arXiv 1910.02054, section 3; here gradients are added
up in 32 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from wrpo_ray.config import TrainConfig, WRPOConfig
from wrpo_ray.planning.accelerators import Accelerator
from wrpo_ray.planning.fit import CONTEXT_BYTES, GB, USABLE_SHARE, Fit, shortage
from wrpo_ray.planning.shapes import ModelShape

Parts = tuple[tuple[str, float], ...]
# Logits in 32 bits that the chunked head keeps, and two chunks that it works on; see logprobs.py.
_HEAD_BYTES = (2**28 + 2 * 2**27) * 4.0
# stage3_max_live_parameters of DeepSpeed: so many numbers stay gathered.
_LIVE_PARAMETERS = 1e9
_OFFLOADS = ("none", "optimizer", "optimizer_and_parameters")


def training_fit(place: str, shape: ModelShape, train: TrainConfig, accelerator: Accelerator) -> Fit:
    """Return whether a worker fits its accelerator, and the smallest changes that make it fit."""
    fit = _judged(place, partial(training_parts, shape), accelerator, train, _changes(train))
    for offload in _OFFLOADS[1:]:
        if fit.fix.endswith(f"offload: {offload}"):
            taken = host_bytes(shape, train.model_copy(update={"offload": offload})) / GB
            fit = replace(fit, fix=f"{fit.fix} ({taken:.0f} GB of its node per worker)")
    return fit


def reference_fit(place: str, shape: ModelShape, train: TrainConfig, accelerator: Accelerator) -> Fit:
    """Return whether the pass of the frozen reference fits."""
    changes = ({"zero_stage": 3}, {"zero_stage": 3, "micro_batch_tokens": _halves(train)[-1]})
    return _judged(place, partial(_reference_parts, shape), accelerator, train, changes)


def _judged(
    place: str,
    parts_of: Callable[[TrainConfig], Parts],
    accelerator: Accelerator,
    train: TrainConfig,
    changes: Iterable[dict[str, Any]],
) -> Fit:
    parts = parts_of(train)
    if accelerator.memory is None or not train.num_gpus_per_worker:
        return Fit(place, accelerator.name, parts, None)
    available = USABLE_SHARE * accelerator.memory
    fit = Fit(place, accelerator.name, parts, available, shortage(parts, available, accelerator.name))
    if fit.fits:
        return fit
    for change in changes:
        if not shortage(parts_of(train.model_copy(update=change)), available, accelerator.name):
            return replace(fit, fix=", ".join(f"{name}: {_yaml(value)}" for name, value in change.items()))
    return replace(fit, fix="more workers, lora, or a larger accelerator")


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _changes(train: TrainConfig) -> Iterator[dict[str, Any]]:
    """Yield changes of settings, those that cost the least time first; none changes the result."""
    stages = range(train.zero_stage, 4)
    tokens = _halves(train)
    for offload in _OFFLOADS[_OFFLOADS.index(train.offload) :]:
        for checkpointing in sorted({train.activation_checkpointing, True}):
            for number in tokens:
                for stage in stages:
                    if stage >= {"none": 0, "optimizer": 1, "optimizer_and_parameters": 3}[offload]:
                        wanted = {
                            "zero_stage": stage,
                            "micro_batch_tokens": number,
                            "activation_checkpointing": checkpointing,
                            "offload": offload,
                        }
                        if change := {name: value for name, value in wanted.items() if value != getattr(train, name)}:
                            yield change
    for factor in (2, 4, 8):
        yield {"num_workers": train.num_workers * factor, "zero_stage": 3, "activation_checkpointing": True}


def _halves(train: TrainConfig) -> list[int]:
    """Return smaller and smaller numbers of tokens, down to the longest row."""
    found = [train.micro_batch_tokens]
    while found[-1] > _longest_row(train):
        found.append(max(found[-1] // 2, _longest_row(train)))
    return found


def training_parts(shape: ModelShape, train: TrainConfig) -> Parts:
    """Return the bytes of one worker by what takes them."""
    is_bf16 = train.precision == "bf16"
    # DeepSpeed's stage 0 cannot add up bfloat16 gradients in 32 bits; see train/engine_settings.py.
    stage = max(train.zero_stage, 1) if is_bf16 else train.zero_stage
    workers = train.num_workers
    trained = trained_parameters(shape, train)
    weight = 2.0 if is_bf16 else 4.0
    states = trained * (12.0 if is_bf16 else 8.0) / (workers if stage >= 1 else 1)
    gradients = trained * 4.0 / (workers if stage >= 2 else 1)
    return (
        ("weights", _weights(shape, train, stage, weight)),
        ("gradients", 0.0 if train.offload != "none" and stage >= 2 else gradients),
        ("optimizer", 0.0 if train.offload != "none" else states),
        ("activations", _activations(shape, train, weight)),
        ("head", _head(shape, train)),
        ("CUDA", CONTEXT_BYTES),
    )


def trained_parameters(shape: ModelShape, train: TrainConfig) -> float:
    """Return how many numbers are trained: all, or those of the adapters beside all linear layers (an upper bound)."""
    return train.lora.rank * shape.linear_widths if train.lora else shape.parameters


def _weights(shape: ModelShape, train: TrainConfig, stage: int, width: float) -> float:
    """With ZeRO 3, what is gathered at a time comes on top of the worker's share."""
    whole = shape.parameters * width
    if stage < 3:
        return whole
    gathered = min(shape.parameters, _LIVE_PARAMETERS) * width
    share = 0.0 if train.offload == "optimizer_and_parameters" else whole / train.num_workers
    copy = whole / train.zero_hpz_partition_size if train.zero_hpz_partition_size > 1 else 0.0
    return share + copy + gathered


def _activations(shape: ModelShape, train: TrainConfig, width: float) -> float:
    layer = layer_bytes(shape, width)
    if train.activation_checkpointing:
        return _tokens(train) * (shape.layers * shape.hidden * width + layer)
    return _tokens(train) * shape.layers * layer


def layer_bytes(shape: ModelShape, width: float) -> float:
    """Return what one decoder layer keeps of one token for the backward pass; `width`: bytes of a number.

    Norms are computed in 32 bits (16 or 24 bytes of each hidden number), attention keeps eight tensors as wide as the
    queries, the MLP four. Measured from saved tensors on a CPU, with shared prompts; see tests/train/test_planning.py.
    """
    queries = shape.heads * shape.head_dim
    return (16 if width == 2 else 24) * shape.hidden + width * (8 * queries + 4 * shape.intermediate)


def _tokens(train: TrainConfig) -> int:
    """Return the tokens of the largest forward pass: one row is never cut."""
    return max(train.micro_batch_tokens, _longest_row(train))


def _longest_row(train: TrainConfig) -> int:
    return train.max_length * (3 if isinstance(train, WRPOConfig) else 1)


def _head(shape: ModelShape, train: TrainConfig) -> float:
    """Padded batches keep the logits of every position, in 32 bits, and their gradient."""
    logits = _tokens(train) * shape.vocabulary * 4.0
    return min(2 * logits, _HEAD_BYTES) if train.share_prompts else 2 * logits


def _reference_parts(shape: ModelShape, train: TrainConfig) -> Parts:
    weight = 2.0 if train.precision == "bf16" else 4.0
    step = _tokens(train) * weight * (4 * shape.hidden + 3 * shape.intermediate)
    weights = _weights(shape, train, train.zero_stage, weight)
    return (("weights", weights), ("one pass", step), ("head", _head(shape, train)), ("CUDA", CONTEXT_BYTES))


def host_bytes(shape: ModelShape, train: TrainConfig) -> float:
    """Return what one worker keeps in its node's memory: offloaded optimizer states, gradients and weights."""
    if train.offload == "none":
        return 0.0
    trained = trained_parameters(shape, train)
    states = trained * (16.0 if train.precision == "bf16" else 12.0)
    weights = shape.parameters * 2.0 if train.offload == "optimizer_and_parameters" else 0.0
    return (states + weights) / train.num_workers
