"""DeepSpeed: settings, engine, one optimizer step, checkpoints, the whole model. The only file that imports it."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as distributed
from transformers.integrations.deepspeed import HfDeepSpeedConfig, unset_hf_deepspeed_config

from wrpo_ray.config import TrainConfig
from wrpo_ray.schedules import learning_rate_factor
from wrpo_ray.train.compiled import compile_blocks
from wrpo_ray.train.engine_settings import deepspeed_settings, inference_settings, zero_stage


class NonFiniteGradientError(ArithmeticError):
    """The gradient norm is not finite; no parameter has been changed."""


@contextmanager
def sharded_loading(train: TrainConfig) -> Iterator[None]:
    """Under ZeRO 3, have transformers load models straight into shards inside this block; all ranks enter it.

    Parameters are cut as soon as they are made; then rank 0 reads the files, a layer at a time, and sends the others
    their parts. At no time has a rank more than its share and the layer at hand.
    """
    if zero_stage(train) < 3:
        yield
        return
    _skip_shared_memory_op()
    # Takes the process group that is there.
    deepspeed.init_distributed()
    # transformers keeps a weak reference, so this name is what switches it on.
    switch = HfDeepSpeedConfig(deepspeed_settings(train))
    try:
        yield
    finally:
        unset_hf_deepspeed_config()
        del switch


def start_engine(module: torch.nn.Module, train: TrainConfig, num_steps: int) -> Any:
    """Return a DeepSpeed engine around `module`, in the process group that Ray Train has set up.

    The optimizer is torch's, so that DeepSpeed compiles no Adam of its own when the job starts; fused, it is ten times
    as fast on a CPU, where an offloaded optimizer runs.
    """
    _skip_shared_memory_op()
    optimizer = torch.optim.AdamW(
        _parameter_groups(module, train.weight_decay),
        lr=train.learning_rate,
        betas=train.adam_betas,
        eps=train.adam_epsilon,
        fused=True,
    )
    factor = partial(
        learning_rate_factor, num_steps=num_steps, warmup_ratio=train.warmup_ratio, schedule=train.lr_schedule
    )
    engine, *_ = deepspeed.initialize(
        model=module,
        optimizer=optimizer,
        # DeepSpeed's annotation names a private base class of torch's schedulers.
        lr_scheduler=lambda wrapped: torch.optim.lr_scheduler.LambdaLR(wrapped, factor),  # pyright: ignore[reportArgumentType]
        config=deepspeed_settings(train),
    )
    optimizer.register_step_pre_hook(partial(_refuse_non_finite, engine))
    if train.compile:
        compile_blocks(module)
    return engine


def start_inference_engine(module: torch.nn.Module, train: TrainConfig) -> Any:
    """Return a DeepSpeed engine for forward passes of a module that was loaded in shards.

    Each forward pass needs all ranks, so all must make equally many.
    """
    engine, *_ = deepspeed.initialize(model=module, config=inference_settings(train))
    engine.eval()
    return engine


def _skip_shared_memory_op() -> None:
    """Keep DeepSpeed from compiling a shared-memory all-reduce (90 s, on CPU only): only its inference calls it."""
    if not torch.cuda.is_available():
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def _parameter_groups(module: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay for matrices, none for norms and biases."""
    named = [parameter for parameter in module.parameters() if parameter.requires_grad]
    # A parameter that ZeRO 3 has cut is empty itself.
    shapes = [getattr(parameter, "ds_shape", parameter.shape) for parameter in named]
    matrices = [parameter for parameter, shape in zip(named, shapes, strict=True) if len(shape) >= 2]
    others = [parameter for parameter, shape in zip(named, shapes, strict=True) if len(shape) < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _refuse_non_finite(engine: Any, *_: Any) -> None:
    """Runs after DeepSpeed has computed the norm and before the parameters change."""
    norm = getattr(engine.optimizer, "_global_grad_norm", None)
    if norm is not None and not math.isfinite(norm):
        raise NonFiniteGradientError(f"gradient norm {float(norm)}")


def backward(engine: Any, loss: torch.Tensor, *, is_last: bool) -> None:
    """Add the gradient of one micro-batch; `is_last` says that `optimizer_step` comes next.

    The number of micro-batches may differ from step to step (all ranks of one step have equally many), so DeepSpeed
    is told where a step ends instead of counting to gradient_accumulation_steps, and does not divide by it.
    """
    engine.set_gradient_accumulation_boundary(is_last)
    engine.backward(loss, scale_wrt_gas=False)


def optimizer_step(engine: Any) -> float:
    """Take one optimizer step after `backward(..., is_last=True)`; return the gradient norm before clipping.

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
    # What is frozen comes from the model's own files.
    engine.save_checkpoint(str(folder), tag=tag, save_latest=False, exclude_frozen_parameters=True)
    # Copies of DeepSpeed's own scripts, for people without DeepSpeed.
    for script in folder.glob("zero_to_*.py"):
        script.unlink()


def load_checkpoint(engine: Any, folder: Path, tag: str) -> None:
    """Restore what `save_checkpoint` wrote: parameters, optimizer and learning rate; all ranks call it."""
    is_whole = all(parameter.requires_grad for parameter in engine.module.parameters())
    path, _ = engine.load_checkpoint(str(folder), tag=tag, load_module_strict=is_whole)
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


def whole_state(engine: Any, module: torch.nn.Module | None = None) -> dict[str, torch.Tensor] | None:
    """Return all parameters and buffers of `module` (of the engine's) on the CPU, on rank 0, and None elsewhere.

    All ranks call it. `module` is part of the engine's; its own names are used.
    """
    part: torch.nn.Module = engine.module if module is None else module
    is_first = distributed.get_rank() == 0
    if engine.zero_optimization_stage() < 3:
        return {name: tensor.cpu() for name, tensor in part.state_dict().items()} if is_first else None
    state: dict[str, torch.Tensor] = {}
    persistent = part.state_dict().keys()
    # One parameter at a time: the whole model need not fit on one device.
    for name, parameter in part.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter]):
            if is_first:
                state[name] = parameter.detach().cpu().clone()
    state |= {name: buffer.cpu() for name, buffer in part.named_buffers() if name in persistent}
    return state if is_first else None
