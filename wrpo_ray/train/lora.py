"""Low-rank adapters (peft): into a model before it is trained; merged into its weights, and by themselves, after.

peft puts its layers into the model in place, so class, attention and names of the model stay as they are, but that
`<layer>.weight` becomes `<layer>.base_layer.weight` beside `<layer>.lora_A.default.weight` and `lora_B`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

from wrpo_ray.config import LoraConfig
from wrpo_ray.errors import ConfigError
from wrpo_ray.train.model import share_as

ADAPTER = "adapter"
_NAME = "default"
_FIX = "name linear layers inside the model's blocks (their ends, as in [q_proj, v_proj]), or write all-linear"


def add_adapters(model: PreTrainedModel, lora: LoraConfig, seed: int) -> None:
    """Freeze all parameters of `model` and put an adapter beside each of the layers that `lora` names.

    All ranks draw the same first values from `seed`. Raises ConfigError when peft is missing, or `target_modules` names
    nothing, or something else than linear layers in front of the head.
    """
    try:
        import peft
    except ImportError as error:
        raise ConfigError(
            "`lora` needs the package peft", code="WRPO-T008", help="pip install 'wrpo-ray[lora]' on all nodes"
        ) from error
    targets = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    config = peft.LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets, task_type="CAUSAL_LM"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            peft.inject_adapter_in_model(config, model, _NAME)
        except ValueError as error:
            raise _unfit(lora, str(error)) from error
    for name, layer in adapted_layers(model).items():
        if not isinstance(layer, peft.tuners.lora.Linear):
            raise _unfit(lora, f"{name} is no linear layer")
        if layer is model.get_output_embeddings():
            raise _unfit(lora, f"{name} is the language model head")


def _unfit(lora: LoraConfig, reason: str) -> ConfigError:
    targets = lora.target_modules if isinstance(lora.target_modules, str) else ", ".join(lora.target_modules)
    return ConfigError(f"`lora.target_modules` ({targets}) does not fit the model: {reason}", "WRPO-T009", _FIX)


def adapted_layers(model: torch.nn.Module) -> dict[str, Any]:
    """Return the layers that have an adapter, by name."""
    from peft.tuners.lora import LoraLayer

    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


def count_parameters(model: torch.nn.Module) -> tuple[int, int]:
    """Return how many of the model's parameters are trained, and how many there are, sharded or not."""
    sizes = [(getattr(each, "ds_numel", each.numel()), each.requires_grad) for each in model.parameters()]
    return sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes)


def merged(model: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights of the model without adapters that computes the same: W + alpha / rank * B A.

    state: all weights of `model`, which has adapters. The sum is taken in float32.
    """
    result = dict(state)
    for name, layer in adapted_layers(model).items():
        first, second = (result.pop(f"{name}.{part}.{_NAME}.weight").float() for part in ("lora_A", "lora_B"))
        update = layer.scaling[_NAME] * (second @ first)
        for key in [key for key in result if key.startswith(f"{name}.base_layer.")]:
            result[key.replace(".base_layer.", ".")] = result.pop(key)
        weight = result[f"{name}.weight"]
        # Layers of GPT-2 hold their weights the other way round.
        update = update.t() if layer.fan_in_fan_out else update
        result[f"{name}.weight"] = (weight.float() + update).to(weight.dtype)
    return result


def save_adapter(model: Any, state: Mapping[str, torch.Tensor], base: str, folder: Path) -> None:
    """Write the adapters of `model` into `folder` in peft's format; `base` names the model that they belong to.

    state: all weights of `model`. Names as in peft.PeftModel.save_pretrained (peft/utils/save_and_load.py, 0.21).
    """
    config = copy.copy(model.peft_config[_NAME])
    config.base_model_name_or_path, config.inference_mode = base, True
    # A set, whose order is another one in every process.
    config.target_modules = sorted(config.target_modules)
    config.save_pretrained(str(folder))
    adapters = {
        f"base_model.model.{name.replace(f'.{_NAME}.', '.')}": tensor.contiguous()
        for name, tensor in state.items()
        if ".lora_A." in name or ".lora_B." in name
    }
    weights = folder / "adapter_model.safetensors"
    save_file(adapters, weights, metadata={"format": "pt"})
    share_as(folder / "adapter_config.json", weights)
