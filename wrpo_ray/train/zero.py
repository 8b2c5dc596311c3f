"""DeepSpeed around a Hugging Face model; the only file that imports deepspeed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from wrpo_ray.config import ModelFiles, TrainConfig


def deepspeed_config(train: TrainConfig, world_size: int) -> dict[str, Any]:
    """Return the DeepSpeed settings of a training section; `train.deepspeed` is laid over the derived ones."""
    per_pass = train.micro_batch_size * world_size
    derived: dict[str, Any] = {
        "train_batch_size": train.global_batch_size,
        "train_micro_batch_size_per_gpu": train.micro_batch_size,
        "gradient_accumulation_steps": train.global_batch_size // per_pass,
        "gradient_clipping": train.max_grad_norm,
        "bf16": {"enabled": train.precision == "bf16"},
        "zero_optimization": {"stage": train.zero_stage},
        "steps_per_print": 10**9,
    }
    return _merged(derived, train.deepspeed)


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lay `over` on `base`, section by section."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def load_model(files: ModelFiles, path: str, train: TrainConfig) -> PreTrainedModel:
    """Return the model at `path` in the precision of training; `files` tells revision and whether its code may run."""
    same = path == files.path
    model = AutoModelForCausalLM.from_pretrained(
        path,
        revision=files.revision if same else None,
        trust_remote_code=files.trust_remote_code and same,
        dtype=torch.bfloat16 if train.precision == "bf16" else torch.float32,
        attn_implementation=train.attention,
        use_safetensors=True,
    )
    model.config.use_cache = False
    if train.activation_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


class TrainingEngine:
    """A model, its optimizer and its shards, with the few calls that the loop needs."""

    def __init__(self, files: ModelFiles, path: str, train: TrainConfig, world_size: int) -> None:
        import deepspeed

        settings = deepspeed_config(train, world_size)
        # Under ZeRO-3 this makes from_pretrained load straight into shards; it must live as long as the model.
        self._sharded_loading = _sharded_loading(settings)
        self.stage = int(settings["zero_optimization"]["stage"])
        self.model = load_model(files, path, train)
        self.model.train()
        optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=train.learning_rate,
            betas=train.adam_betas,
            eps=train.adam_epsilon,
            weight_decay=train.weight_decay,
        )
        # DeepSpeed's own types say too little to check against.
        self.engine: Any = deepspeed.initialize(model=self.model, optimizer=optimizer, config=settings)[0]
        self.device: torch.device = self.engine.device

    def logits(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return logits [rows, length, vocabulary]."""
        output = self.engine(
            input_ids=input_ids.to(self.device), attention_mask=attention_mask.to(self.device), use_cache=False
        )
        return output.logits

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradient of `loss`; the caller has divided by whatever the whole batch counts."""
        self.engine.backward(loss, scale_wrt_gas=False)

    def step(self, learning_rate: float) -> None:
        """Finish a micro-batch; at the end of a global batch clip, update and forget the gradients."""
        for group in self.engine.optimizer.param_groups:
            group["lr"] = learning_rate
        self.engine.step()

    def grad_norm(self) -> float | None:
        """Return the gradient norm of the last update, before clipping."""
        norm = self.engine.get_global_grad_norm()
        return None if norm is None else float(norm)

    def save_checkpoint(self, folder: Path, step: int) -> None:
        """Write what is needed to go on after `step` updates; every rank must call it."""
        state = {"step": step, "torch_rng": torch.get_rng_state()}
        self.engine.save_checkpoint(str(folder), tag="state", client_state=state)

    def load_checkpoint(self, folder: Path) -> int:
        """Restore a checkpoint and return its step; every rank must call it."""
        _, state = self.engine.load_checkpoint(str(folder), tag="state")
        torch.set_rng_state(state["torch_rng"])
        return int(state["step"])

    def state_dict(self, is_writer: bool) -> dict[str, torch.Tensor]:
        """Return the whole weights on the CPU for the writer, nothing for the others; every rank must call it."""
        if self.stage < 3:
            weights = self.model.state_dict() if is_writer else {}
            return {name: value.detach().cpu() for name, value in weights.items()}
        return self._gathered_state_dict(is_writer)

    def _gathered_state_dict(self, is_writer: bool) -> dict[str, torch.Tensor]:
        """Gather shards one parameter at a time: the whole model never stands on one GPU."""
        import deepspeed

        names = set(self.model.state_dict().keys())
        gathered = {}
        for name, parameter in self.model.named_parameters():
            with deepspeed.zero.GatheredParameters([parameter]):
                if is_writer:
                    gathered[name] = parameter.detach().cpu().clone()
        if is_writer:
            buffers = ((name, value) for name, value in self.model.named_buffers() if name in names)
            gathered |= {name: value.detach().cpu() for name, value in buffers}
        return gathered


def _sharded_loading(settings: Mapping[str, Any]) -> object | None:
    if settings["zero_optimization"]["stage"] < 3:
        return None
    from transformers.integrations.deepspeed import HfDeepSpeedConfig

    return HfDeepSpeedConfig(dict(settings))
