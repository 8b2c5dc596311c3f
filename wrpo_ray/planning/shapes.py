"""What of a model its cost depends on, read from its config.json."""

from __future__ import annotations

import fnmatch
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wrpo_ray.hub_models import OTHER_WEIGHTS, WEIGHTS_INDEX

# Two matrices in the MLP instead of three (gate, up, down).
_PLAIN_MLP = {"gpt_neox", "gpt2", "opt", "phi", "starcoder2", "bloom", "falcon", "gpt_bigcode", "nemotron"}
_MAX_HEADER_BYTES = 2**27
# Of a model's numbers: buffers of positions are whole numbers too.
_MOST_INTEGERS = 0.01


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a causal language model.

    parameters: all of them; active_parameters: those that one token goes through (mixture of experts). kv_width:
    numbers that the cache holds for one token. kv_heads: over so many accelerators the cache can be split; 1 when its
    heads share one latent vector (MLA).
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    kv_width: int
    parameters: float
    active_parameters: float

    @property
    def linear_widths(self) -> int:
        """Inputs and outputs of all linear layers of the trunk, added up: a LoRA of rank r has r times as many numbers.

        Of a dense model with a gated MLP; an upper bound for a plain one."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = 2 * (self.hidden + queries) + 2 * (self.hidden + keys)
        return self.layers * (attention + 3 * (self.hidden + self.intermediate))


def shape_of(config: Mapping[str, Any], parameters: float | None = None) -> ModelShape:
    """Return the shape that a parsed config.json describes.

    parameters: the exact number, when it is known. Raises KeyError for a size that is missing, under its name.
    """
    text = config.get("text_config")
    text = text if isinstance(text, Mapping) else config
    hidden, layers, heads = _int(text, "hidden_size", "n_embd"), _int(text, "num_hidden_layers", "n_layer"), 0
    heads = _int(text, "num_attention_heads", "n_head")
    head_dim = text.get("head_dim") or hidden // heads
    is_mla = bool(text.get("kv_lora_rank"))
    kv_heads = text.get("num_key_value_heads") or heads
    width = text["kv_lora_rank"] + text["qk_rope_head_dim"] if is_mla else 2 * kv_heads * head_dim
    counted, active = _counts(text, hidden, layers, heads, kv_heads, head_dim)
    return ModelShape(
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=1 if is_mla else kv_heads,
        head_dim=head_dim,
        intermediate=text.get("intermediate_size") or 4 * hidden,
        vocabulary=_int(text, "vocab_size"),
        kv_width=layers * width,
        parameters=parameters or counted,
        active_parameters=active * (parameters / counted if parameters else 1),
    )


def _int(config: Mapping[str, Any], *names: str) -> int:
    for name in names:
        if isinstance(found := config.get(name), int) and found > 0:
            return found
    raise KeyError(names[0])


def _counts(
    config: Mapping[str, Any], hidden: int, layers: int, heads: int, kv_heads: int, head_dim: int
) -> tuple[float, float]:
    """Return all parameters and those that one token goes through; norms and biases are left out."""
    matrices = 2 if config.get("model_type") in _PLAIN_MLP else 3
    attention = _attention(config, hidden, heads, kv_heads, head_dim)
    dense = matrices * hidden * (config.get("intermediate_size") or 4 * hidden)
    experts = config.get("n_routed_experts") or config.get("num_local_experts") or config.get("num_experts") or 0
    shared = config.get("n_shared_experts") or 0
    one_expert = matrices * hidden * (config.get("moe_intermediate_size") or config.get("intermediate_size") or 0)
    dense_layers = config.get("first_k_dense_replace", 0) if experts else layers
    moe_layers = layers - dense_layers
    used = (config.get("num_experts_per_tok") or 0) + shared
    vocabulary = _int(config, "vocab_size")
    tied = config.get("tie_word_embeddings", True)
    has_head = not any("Sequence" in name or "Reward" in name for name in config.get("architectures") or [])
    embeddings = vocabulary * hidden * (2 if has_head and not tied else 1)
    common = embeddings + layers * attention + dense_layers * dense
    return common + moe_layers * (experts + shared) * one_expert, common + moe_layers * used * one_expert


def _attention(config: Mapping[str, Any], hidden: int, heads: int, kv_heads: int, head_dim: int) -> float:
    if not config.get("kv_lora_rank"):
        return 2 * hidden * heads * head_dim + 2 * hidden * kv_heads * head_dim
    nope, rope = config["qk_nope_head_dim"], config["qk_rope_head_dim"]
    values, latent, query_rank = config["v_head_dim"], config["kv_lora_rank"], config.get("q_lora_rank")
    queries = heads * (nope + rope)
    query = hidden * query_rank + query_rank * queries if query_rank else hidden * queries
    return query + hidden * (latent + rope) + latent * heads * (nope + values) + heads * values * hidden


def stored_parameters(folder: Path) -> float | None:
    """Return how many numbers the .safetensors files of a folder hold, from their headers.

    None when they do not tell: there are none, some that the index lists are missing (a cache that is half filled), or
    several numbers are packed into one (4-bit weights). Raises ValueError for a file that is no .safetensors file.
    The format: https://huggingface.co/docs/safetensors/index#format
    """
    tensors = [tensor for file in _weight_files(folder) for tensor in _tensors(file)]
    total = sum(count for count, _ in tensors)
    packed = sum(count for count, dtype in tensors if dtype[:1] in "IU" and dtype != "I8")
    return float(total) if total and packed <= _MOST_INTEGERS * total else None


def _weight_files(folder: Path) -> list[Path]:
    """Return the files of the model, without the same weights under other names; none when some are missing."""
    there = {file.name: file for file in sorted(folder.glob("*.safetensors"))}
    index = folder / WEIGHTS_INDEX
    if index.is_file():
        listed = set(json.loads(index.read_text(encoding="utf-8")).get("weight_map", {}).values())
        return [there[name] for name in sorted(listed)] if listed <= set(there) else []
    return [
        file for name, file in there.items() if not any(fnmatch.fnmatchcase(name, other) for other in OTHER_WEIGHTS)
    ]


def _tensors(file: Path) -> Iterator[tuple[int, str]]:
    """Yield how many numbers each tensor has, and their type. Raises ValueError for a file that is none."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > _MAX_HEADER_BYTES:
            raise ValueError(f"{file} is no .safetensors file")
        header = json.loads(stream.read(length))
    for name, tensor in header.items():
        if name != "__metadata__":
            yield math.prod(tensor["shape"]), tensor["dtype"]
