"""The model of a training worker: loaded from, and saved as, a Hugging Face folder."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from wrpo_ray.config import ModelFiles, TrainConfig
from wrpo_ray.errors import ModelError
from wrpo_ray.models import tokenizer_of
from wrpo_ray.policy import Policy, why_padded

log = logging.getLogger(__name__)


def load_model(files: ModelFiles, train: TrainConfig) -> PreTrainedModel:
    """Return the model in the precision and with the attention of `train`.

    Raises ModelError when that attention would leave out a part of the model without a word.
    """
    _refuse_dropped_soft_cap(files, train)
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        files.path,
        trust_remote_code=files.trust_remote_code,
        dtype=torch.bfloat16 if train.precision == "bf16" else torch.float32,
        attn_implementation=train.attention,
        use_safetensors=True,
    )
    if train.activation_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    _repair_generation_config(model)
    return model


def _refuse_dropped_soft_cap(files: ModelFiles, train: TrainConfig) -> None:
    """transformers 5.19 hands the cap to its SDPA function, which ignores it (integrations/sdpa_attention.py)."""
    config = AutoConfig.from_pretrained(files.path, trust_remote_code=files.trust_remote_code).get_text_config()
    cap = getattr(config, "attn_logit_softcapping", None)
    if cap is not None and train.attention == "sdpa":
        raise ModelError(
            f"{files.path} has attn_logit_softcapping = {cap}, which `attention: sdpa` would leave out",
            code="WRPO-T007",
            help="set `attention: eager` (or flash_attention_2 on GPUs) in this training section",
        )


def load_policy(files: ModelFiles, train: TrainConfig) -> Policy:
    """Return the model as training sees it, with shared prompts where they are asked for and known to be exact."""
    model = load_model(files, train)
    reason = why_padded(model) if train.share_prompts else None
    if reason:
        log.warning("prompts are not shared, batches are padded: %s", reason)
    return Policy(model, train.share_prompts and reason is None, train.shared_attention, train.head_kernel)


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
    share_as(folder / "config.json", *folder.glob("*.safetensors"))


def share_as(example: Path, *paths: Path) -> None:
    """Let whoever may read `example` read `paths`; safetensors writes files that only their owner can read."""
    for path in paths:
        shutil.copymode(example, path)
