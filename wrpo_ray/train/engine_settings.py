"""DeepSpeed's settings for a training section, as a dictionary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wrpo_ray.config import TrainConfig


def deepspeed_settings(train: TrainConfig) -> dict[str, Any]:
    """Return DeepSpeed's settings for `train`, with `train.deepspeed` merged over them section by section."""
    settings: dict[str, Any] = {
        # DeepSpeed wants batch sizes that multiply up. Nothing depends on them: micro-batches are cut by tokens,
        # losses are scaled by the caller, and zero.backward says where a step ends.
        "train_batch_size": train.num_workers,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": train.max_grad_norm,
        "bf16": {"enabled": train.precision == "bf16"},
        # Without it, gradients of micro-batches are added up in bfloat16.
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_optimization": {"stage": _stage(train), **_offload(train), **_zero_plus_plus(train)},
        "zero_allow_untested_optimizer": True,
        # torch's fused AdamW is as fast on a CPU as DeepSpeed's own, which would have to be compiled when a job starts.
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }
    return _merged(settings, train.deepspeed)


def inference_settings(train: TrainConfig) -> dict[str, Any]:
    """Return DeepSpeed's settings for forward passes of a sharded model, without optimizer."""
    settings = deepspeed_settings(train)
    settings["zero_optimization"].pop("offload_optimizer", None)
    return settings


def _stage(train: TrainConfig) -> int:
    """DeepSpeed's ZeRO 0 cannot add up bfloat16 gradients in float32; stage 1 can, and differs in memory only."""
    return max(train.zero_stage, 1) if train.precision == "bf16" else train.zero_stage


def _offload(train: TrainConfig) -> dict[str, Any]:
    # Page-locked memory speeds up copies to and from a GPU; without one there is nothing to lock it for.
    place = {"device": "cpu", "pin_memory": train.num_gpus_per_worker > 0}
    names = {"none": (), "optimizer": ("offload_optimizer",)}.get(train.offload, ("offload_optimizer", "offload_param"))
    return {name: dict(place) for name in names}


def _zero_plus_plus(train: TrainConfig) -> dict[str, Any]:
    """ZeRO++, https://www.deepspeed.ai/tutorials/zeropp/; DeepSpeed has the same names and defaults."""
    return {
        "zero_hpz_partition_size": train.zero_hpz_partition_size,
        "zero_quantized_weights": train.zero_quantized_weights,
        "zero_quantized_gradients": train.zero_quantized_gradients,
    }


def zero_stage(train: TrainConfig) -> int:
    """Return the ZeRO stage that training really uses."""
    return deepspeed_settings(train)["zero_optimization"]["stage"]


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged
