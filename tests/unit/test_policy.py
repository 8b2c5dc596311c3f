"""Shared prompts against padded batches: the same log-probs and gradients, for each architecture and kernel."""

import copy

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from wrpo_ray import attention
from wrpo_ray.batching import pad_sequences
from wrpo_ray.packing import pack_groups
from wrpo_ray.policy import SHARED_PROMPT_ARCHITECTURES, Policy, why_padded

SIZES = {"vocab_size": 101, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4}
HEADS = {**SIZES, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}
SLIDING = ["sliding_attention", "full_attention"] * 2
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**HEADS)),
    "llama-tied": lambda: LlamaForCausalLM(LlamaConfig(**HEADS, tie_word_embeddings=True)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**HEADS)),
    "qwen2-sliding": lambda: Qwen2ForCausalLM(
        Qwen2Config(**HEADS, use_sliding_window=True, sliding_window=7, max_window_layers=2)
    ),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**HEADS, head_dim=8)),
    # Windows shorter than a prompt, than a response, and than both.
    "gemma3": lambda: Gemma3ForCausalLM(Gemma3TextConfig(**HEADS, head_dim=8, sliding_window=6, layer_types=SLIDING)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**HEADS, sliding_window=5)),
    "gpt-neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES, num_attention_heads=4, max_position_embeddings=128)),
}


def ids(generator, num_tokens):
    return torch.randint(0, 101, (num_tokens,), generator=generator).tolist()


@pytest.fixture
def groups():
    """Three prompts with three, one and two responses, one of them empty."""
    generator = torch.Generator().manual_seed(1)
    prompts = [ids(generator, length) for length in (9, 3, 14)]
    lengths = ((5, 8, 1), (12,), (2, 0))
    return prompts, [[ids(generator, length) for length in group] for group in lengths]


@pytest.fixture
def packed(groups):
    return pack_groups(*groups)


@pytest.fixture
def padded(groups):
    prompts, responses = groups
    repeated = [prompt for prompt, group in zip(prompts, responses, strict=True) for _ in group]
    return pad_sequences(repeated, [response for group in responses for response in group], pad_token_id=0)


def with_gradient(policy, batch):
    """Return log-probs and the gradient of a sum with another weight for each response, as one vector."""
    policy.model.train()
    logps = policy(batch)
    (logps * torch.linspace(-1.0, 2.0, len(logps))).sum().backward()
    return logps.detach(), torch.cat([parameter.grad.flatten() for parameter in policy.model.parameters()])


def relative_error(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("name", MODELS)
def test_shared_prompts_give_the_log_probs_and_gradients_of_padded_batches(name, packed, padded):
    torch.manual_seed(0)
    model = MODELS[name]()
    expected, expected_gradient = with_gradient(Policy(copy.deepcopy(model), share_prompts=False), padded)
    found, gradient = with_gradient(Policy(model, share_prompts=True), packed)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-6)
    assert relative_error(gradient, expected_gradient) < 1e-6
    assert found[-1] == 0.0


def test_every_known_architecture_is_compared():
    assert {type(make()).__name__ for make in MODELS.values()} == SHARED_PROMPT_ARCHITECTURES


@pytest.mark.parametrize("name", MODELS)
def test_packed_rows_give_what_each_row_gives_alone(name, groups, packed):
    torch.manual_seed(0)
    policy = Policy(MODELS[name](), share_prompts=True)
    together, gradient = with_gradient(policy, packed)
    policy.zero_grad()
    alone = [policy(pack_groups([prompt], [responses])) for prompt, responses in zip(*groups, strict=True)]
    logps = torch.cat(alone)
    (logps * torch.linspace(-1.0, 2.0, len(logps))).sum().backward()
    torch.testing.assert_close(together, logps.detach(), atol=2e-5, rtol=1e-6)
    gradient_alone = torch.cat([parameter.grad.flatten() for parameter in policy.model.parameters()])
    assert relative_error(gradient, gradient_alone) < 1e-6


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_activation_checkpointing_changes_nothing(name, packed):
    torch.manual_seed(0)
    model = MODELS[name]()
    expected, expected_gradient = with_gradient(Policy(copy.deepcopy(model), share_prompts=True), packed)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    found, gradient = with_gradient(Policy(model, share_prompts=True), packed)
    torch.testing.assert_close(found, expected, atol=0, rtol=0)
    assert relative_error(gradient, expected_gradient) < 1e-7


def flash_like(query, key, value, ends_q, ends_k, longest_q, longest_k, *, scale, window_size, enable_gqa):
    """What the CUDA kernel computes: query i of a segment stands `keys - queries` places further on among the keys."""
    outputs = []
    for first_q, last_q, first_k, last_k in zip(ends_q, ends_q[1:], ends_k, ends_k[1:], strict=False):
        num_queries, num_keys = int(last_q - first_q), int(last_k - first_k)
        assert num_queries <= longest_q
        assert num_keys <= longest_k
        places = torch.arange(num_keys - num_queries, num_keys)[:, None]
        keys = torch.arange(num_keys)[None, :]
        seen = (keys <= places + window_size[1]) & ((window_size[0] < 0) | (keys >= places - window_size[0]))
        parts = [
            rows[first:last].transpose(0, 1)
            for rows, first, last in ((query, first_q, last_q), (key, first_k, last_k), (value, first_k, last_k))
        ]
        attended = scaled_dot_product_attention(*parts, attn_mask=seen, scale=scale, enable_gqa=enable_gqa)
        outputs.append(attended.transpose(0, 1))
    return torch.cat(outputs)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("kernel", ["varlen", "flex"])
@pytest.mark.parametrize("name", ["llama", "gemma3", "mistral", "gpt-neox"])
def test_the_kernels_of_a_gpu_compute_the_same(name, kernel, packed, monkeypatch):
    """flex: torch's own, unfused; varlen: the indices are ours and the kernel a model of torch's."""
    monkeypatch.setattr(attention, "varlen_attn", flash_like)
    torch.manual_seed(0)
    model = MODELS[name]()
    expected = Policy(model, share_prompts=True, kernel="decomposed")(packed)
    with torch.no_grad():
        found = Policy(model, share_prompts=True, kernel=kernel)(packed)
    torch.testing.assert_close(found, expected.detach(), atol=2e-5, rtol=1e-6)


def test_other_architectures_and_soft_caps_take_padded_batches():
    opt = OPTForCausalLM(
        OPTConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, ffn_dim=16)
    )
    assert why_padded(opt).startswith("OPTForCausalLM is none of the architectures that are known to be exact (see")
    gemma2 = Gemma2ForCausalLM(Gemma2Config(**HEADS, head_dim=8))
    assert why_padded(gemma2).startswith("Gemma2ForCausalLM is none")
    config = Gemma3TextConfig(**HEADS, head_dim=8, final_logit_softcapping=30.0)
    assert why_padded(Gemma3ForCausalLM(config)) == "it has final_logit_softcapping"
    config = Gemma3TextConfig(**HEADS, head_dim=8, use_bidirectional_attention=True)
    assert why_padded(Gemma3ForCausalLM(config)) == "its attention is bidirectional"
    dynamic = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    llama = LlamaForCausalLM(LlamaConfig(**HEADS, rope_parameters=dynamic))
    assert why_padded(llama) == "its rotary embedding (dynamic) depends on the longest sequence of a batch"
    with pytest.raises(ValueError, match="shared prompts are not possible: OPTForCausalLM"):
        Policy(opt, share_prompts=True)


def test_llama3_scaled_rope_depends_on_positions_alone(packed, padded):
    parameters = {
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    }  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**HEADS, rope_parameters=parameters))
    expected = Policy(copy.deepcopy(model), share_prompts=False)(padded)
    torch.testing.assert_close(Policy(model, share_prompts=True)(packed), expected, atol=2e-5, rtol=1e-6)
