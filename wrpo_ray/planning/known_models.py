"""Shapes of the models of the WRPO paper (arXiv 2412.03187), whose files need not be at hand to plan its run.

From the models' config.json and the numbers of parameters on their pages of the Hugging Face hub, written down from
memory and checked against each other: tests/unit/test_planning_calibration.py counts the parameters from the sizes.
"""

from __future__ import annotations

from typing import Any

from wrpo_ray.planning.shapes import ModelShape, shape_of


def _dense(
    hidden: int, layers: int, heads: int, kv_heads: int, intermediate: int, vocabulary: int, **more: Any
) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": intermediate,
        "vocab_size": vocabulary,
        "tie_word_embeddings": False,
        **more,
    }


_DEEPSEEK_V2 = _dense(
    5120, 60, 128, 128, 12288, 102400, kv_lora_rank=512, q_lora_rank=1536, qk_nope_head_dim=128, qk_rope_head_dim=64,
    v_head_dim=128, n_routed_experts=160, n_shared_experts=2, num_experts_per_tok=6, moe_intermediate_size=1536,
    first_k_dense_replace=1,
)  # fmt: skip
_LLAMA3_8B = _dense(4096, 32, 32, 8, 14336, 128256)
# Sizes, and parameters in billions.
KNOWN: dict[str, tuple[dict[str, Any], float]] = {
    "mistralai/Mistral-Large-Instruct-2407": (_dense(12288, 88, 96, 8, 28672, 32768), 122.6),
    "google/gemma-2-27b-it": (_dense(4608, 46, 32, 16, 36864, 256000, head_dim=128, tie_word_embeddings=True), 27.2),
    "google/gemma-2-9b-it": (_dense(3584, 42, 16, 8, 14336, 256000, head_dim=256, tie_word_embeddings=True), 9.24),
    "Qwen/Qwen2-72B-Instruct": (_dense(8192, 80, 64, 8, 29568, 152064), 72.7),
    "meta-llama/Meta-Llama-3-70B-Instruct": (_dense(8192, 80, 64, 8, 28672, 128256), 70.6),
    "internlm/internlm2_5-20b-chat": (_dense(6144, 48, 48, 8, 16384, 92544), 19.9),
    "deepseek-ai/DeepSeek-V2-Chat-0628": (_DEEPSEEK_V2, 236.0),
    "deepseek-ai/DeepSeek-Coder-V2-Instruct-0724": (_DEEPSEEK_V2, 236.0),
    "01-ai/Yi-1.5-34B-Chat": (_dense(7168, 60, 56, 8, 20480, 64000), 34.4),
    "microsoft/Phi-3-medium-4k-instruct": (_dense(5120, 40, 40, 10, 17920, 32064), 14.0),
    "meta-llama/Meta-Llama-3-8B-Instruct": (_LLAMA3_8B, 8.03),
    "RLHFlow/ArmoRM-Llama3-8B-v0.1": (_LLAMA3_8B | {"architectures": ["LlamaForRewardModelWithGating"]}, 7.51),
}


def known_shape(path: str) -> ModelShape | None:
    """Return the shape of a model of the table, by its name on the hub or the last part of it (a folder, say)."""
    name = path.rstrip("/").rsplit("/", 1)[-1].casefold()
    for full, (config, billions) in KNOWN.items():
        if full.rsplit("/", 1)[-1].casefold() == name:
            return shape_of(config, billions * 1e9)
    return None
