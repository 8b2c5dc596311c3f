"""The model of a training worker: loaded from, and saved as, a Hugging Face folder."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from wrpo_ray.config import ModelFiles, TrainConfig
from wrpo_ray.models import tokenizer_of

log = logging.getLogger(__name__)


def load_model(files: ModelFiles, train: TrainConfig) -> PreTrainedModel:
    """Return the model in the precision and with the attention of `train`."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        files.path,
        revision=files.revision,
        trust_remote_code=files.trust_remote_code,
        dtype=torch.bfloat16 if train.precision == "bf16" else torch.float32,
        attn_implementation=train.attention,
    )
    if train.activation_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    _repair_generation_config(model)
    return model


def _repair_generation_config(model: PreTrainedModel) -> None:
    """Many models set a temperature but not do_sample; transformers then refuses to save them, after the training."""
    config = model.generation_config
    if config is None:
        return
    try:
        config.validate(strict=True)
    except ValueError:
        log.info("generation config has sampling settings without do_sample; do_sample is set")
        config.do_sample = True


def save_model(model: PreTrainedModel, state: dict[str, torch.Tensor], files: ModelFiles, folder: Path) -> None:
    """Write weights as safetensors with config, generation config, tokenizer and chat template into `folder`."""
    model.save_pretrained(folder, state_dict=state)
    tokenizer_of(files).save_pretrained(folder)
