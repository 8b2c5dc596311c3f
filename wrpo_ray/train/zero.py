"""DeepSpeed: settings, engine, one optimizer step, checkpoints, the whole model. The only file that imports it."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as distributed
from transformers import PreTrainedModel

from wrpo_ray.config import TrainConfig
from wrpo_ray.schedules import learning_rate_factor


class NonFiniteGradientError(ArithmeticError):
    """The gradient norm is not finite; no parameter has been changed."""


def deepspeed_settings(train: TrainConfig, num_micro_batches: int) -> dict[str, Any]:
    """Return DeepSpeed's settings for `train`, with `train.deepspeed` merged over them section by section."""
    settings: dict[str, Any] = {
        "train_batch_size": train.micro_batch_size * num_micro_batches * train.num_workers,
        "train_micro_batch_size_per_gpu": train.micro_batch_size,
        "gradient_accumulation_steps": num_micro_batches,
        "gradient_clipping": train.max_grad_norm,
        "bf16": {"enabled": train.precision == "bf16"},
        # Without it, gradients of micro-batches are added up in bfloat16.
        "data_types": {"grad_accum_dtype": "fp32"},
        # DeepSpeed's ZeRO 0 cannot add up bfloat16 gradients in float32; stage 1 can, and differs in memory only.
        "zero_optimization": {"stage": max(train.zero_stage, 1) if train.precision == "bf16" else train.zero_stage},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
    }
    return _merged(settings, train.deepspeed)


def zero_stage(train: TrainConfig) -> int:
    """Return the ZeRO stage that training really uses."""
    return deepspeed_settings(train, 1)["zero_optimization"]["stage"]


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def start_engine(model: PreTrainedModel, train: TrainConfig, num_micro_batches: int, num_steps: int) -> Any:
    """Return a DeepSpeed engine around `model`, in the process group that Ray Train has set up.

    The optimizer is torch's, so that DeepSpeed compiles no Adam of its own when the job starts.
    """
    _skip_shared_memory_op()
    optimizer = torch.optim.AdamW(
        _parameter_groups(model, train.weight_decay),
        lr=train.learning_rate,
        betas=train.adam_betas,
        eps=train.adam_epsilon,
    )
    factor = partial(
        learning_rate_factor, num_steps=num_steps, warmup_ratio=train.warmup_ratio, schedule=train.lr_schedule
    )
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=optimizer,
        # DeepSpeed's annotation names a private base class of torch's schedulers.
        lr_scheduler=lambda wrapped: torch.optim.lr_scheduler.LambdaLR(wrapped, factor),  # pyright: ignore[reportArgumentType]
        config=deepspeed_settings(train, num_micro_batches),
    )
    optimizer.register_step_pre_hook(partial(_refuse_non_finite, engine))
    return engine


def _skip_shared_memory_op() -> None:
    """Keep DeepSpeed from compiling a shared-memory all-reduce (90 s, on CPU only): only its inference calls it."""
    if not torch.cuda.is_available():
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def _parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay for matrices, none for norms and biases."""
    named = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in named if parameter.dim() >= 2]
    others = [parameter for parameter in named if parameter.dim() < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _refuse_non_finite(engine: Any, *_: Any) -> None:
    """Runs after DeepSpeed has computed the norm and before the parameters change."""
    norm = getattr(engine.optimizer, "_global_grad_norm", None)
    if norm is not None and not math.isfinite(norm):
        raise NonFiniteGradientError(f"gradient norm {float(norm)}")


def optimizer_step(engine: Any) -> float:
    """Take one optimizer step after the last backward of a global batch; return the gradient norm before clipping.

    Raises NonFiniteGradientError, on all ranks alike and with the parameters as they were, when the norm is not finite.
    """
    norm = _plain_norm(engine)
    if norm is not None and not math.isfinite(norm):
        raise NonFiniteGradientError(f"gradient norm {norm}")
    engine.step()
    norm = float(engine.get_global_grad_norm()) if norm is None else norm
    # DeepSpeed leaves a step out by itself when it finds an infinite gradient first.
    if not math.isfinite(norm):
        raise NonFiniteGradientError(f"gradient norm {norm}")
    return norm


def _plain_norm(engine: Any) -> float | None:
    """Return the norm of the averaged gradients when DeepSpeed does not wrap the optimizer (ZeRO 0 in float32)."""
    if not isinstance(engine.optimizer, torch.optim.AdamW):
        return None
    gradients = [parameter.grad for parameter in engine.module.parameters() if parameter.grad is not None]
    return float(torch.nn.utils.get_total_norm(gradients))


def save_checkpoint(engine: Any, folder: Path, tag: str) -> None:
    """Write this rank's share of the state into `folder`/`tag`; all ranks call it, each with its own folder."""
    (folder / tag).mkdir(parents=True, exist_ok=True)
    engine.save_checkpoint(str(folder), tag=tag, save_latest=False)
    # Copies of DeepSpeed's own scripts, for people without DeepSpeed.
    for script in folder.glob("zero_to_*.py"):
        script.unlink()


def load_checkpoint(engine: Any, folder: Path, tag: str) -> None:
    """Restore what `save_checkpoint` wrote: parameters, optimizer and learning rate; all ranks call it."""
    path, _ = engine.load_checkpoint(str(folder), tag=tag)
    if path is None:
        raise FileNotFoundError(f"{folder / tag} holds no DeepSpeed checkpoint")


def load_universal(engine: Any, folder: Path, tag: str) -> None:
    """Restore what `to_universal` made, on any number of ranks; all ranks call it.

    Two things are put right that DeepSpeed 0.19.8 does not in ZeRO 3 (runtime/zero/stage3.py,
    load_hp_checkpoint_state_from_checkpoint_dir_stage3): all groups get the settings of the first one, and all share
    one tensor that counts Adam's steps, so that it would be counted up once for each of them.
    """
    decays = [group["weight_decay"] for group in engine.optimizer.param_groups]
    engine._config.load_universal_checkpoint = True
    try:
        load_checkpoint(engine, folder, tag)
    finally:
        engine._config.load_universal_checkpoint = False
    for group, decay in zip(engine.optimizer.param_groups, decays, strict=True):
        group["weight_decay"] = decay
    for state in engine.optimizer.optimizer.state.values():
        if isinstance(state.get("step"), torch.Tensor):
            state["step"] = state["step"].clone()


def to_universal(source: Path, destination: Path) -> None:
    """Write DeepSpeed's checkpoint in `source` as a universal one, which any number of ranks can load.

    Raises RuntimeError with the converter's last words. In a process of its own: it forks helpers, which a worker
    with a GPU and open connections must not.
    """
    command = [
        sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--input_folder", str(source),
        "--output_folder", str(destination), "--inject_missing_state",
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "DS_ACCELERATOR": "cpu"}
    )
    if done.returncode:
        raise RuntimeError(f"DeepSpeed cannot make a universal checkpoint of {source}: {done.stderr[-1000:]}")


def whole_state(engine: Any) -> dict[str, torch.Tensor] | None:
    """Return all parameters and buffers on the CPU, on rank 0, and None elsewhere; all ranks call it."""
    is_first = distributed.get_rank() == 0
    if engine.zero_optimization_stage() < 3:
        return {name: tensor.cpu() for name, tensor in engine.module.state_dict().items()} if is_first else None
    state: dict[str, torch.Tensor] = {}
    persistent = engine.module.state_dict().keys()
    # One parameter at a time: the whole model need not fit on one device.
    for name, parameter in engine.module.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter]):
            if is_first:
                state[name] = parameter.detach().cpu().clone()
    state |= {name: buffer.cpu() for name, buffer in engine.module.named_buffers() if name in persistent}
    return state if is_first else None
