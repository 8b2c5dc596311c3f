"""A model as training and scoring see it: batches in, summed log-probs of responses (or rewards) out.

Architectures that are known to be exact with shared prompts take packed batches; all others take padded ones.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from wrpo_ray.attention import SHARED_PROMPT, Kernel, SharedPrompts
from wrpo_ray.batching import PaddedBatch
from wrpo_ray.logprobs import HEAD_KERNELS, HeadKernel, padded_sequence_logps, sum_by_sequence
from wrpo_ray.packing import PackedBatch

# tests/unit/test_policy.py compares each of them with the padded path. What an architecture must do for it: go through
# transformers' attention interface with keyword arguments, take every position from position_ids, mix tokens in
# attention alone, and turn its last hidden state into logits by one linear layer.
SHARED_PROMPT_ARCHITECTURES = frozenset(
    {
        "LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "Gemma3ForCausalLM", "MistralForCausalLM",
        "GPTNeoXForCausalLM",
    }
)  # fmt: skip
# The same for reward models, whose last hidden state becomes a reward by one linear layer, `score`.
SHARED_PROMPT_CLASSIFIERS = frozenset(
    {
        "LlamaForSequenceClassification", "Qwen2ForSequenceClassification", "Qwen3ForSequenceClassification",
        "Gemma3TextForSequenceClassification", "MistralForSequenceClassification", "GPTNeoXForSequenceClassification",
    }
)  # fmt: skip
# Rotary embeddings that depend on the longest sequence of a batch, not on the position alone.
_LENGTH_DEPENDENT_ROPE = frozenset({"dynamic", "longrope"})
_SOFT_CAPS = ("attn_logit_softcapping", "final_logit_softcapping")


def why_padded(model: PreTrainedModel) -> str | None:
    """Return why shared prompts are not known to be exact for the model, or None where they are."""
    architecture = type(model).__name__
    if architecture not in SHARED_PROMPT_ARCHITECTURES | SHARED_PROMPT_CLASSIFIERS:
        return f"{architecture} is none of the architectures that are known to be exact (see wrpo_ray/policy.py)"
    config = model.config.get_text_config()
    if kinds := _rope_types(config) & _LENGTH_DEPENDENT_ROPE:
        return f"its rotary embedding ({', '.join(sorted(kinds))}) depends on the longest sequence of a batch"
    if getattr(config, "use_bidirectional_attention", None):
        return "its attention is bidirectional"
    capped = [name for name in _SOFT_CAPS if getattr(config, name, None) is not None]
    return f"it has {', '.join(capped)}" if capped else None


def _rope_types(config: Any) -> set[str]:
    """Return the kinds of rotary embedding: one set of parameters, or one for each type of layer."""
    parameters = getattr(config, "rope_parameters", None) or {}
    each = [parameters, *(value for value in parameters.values() if isinstance(value, dict))]
    return {str(found["rope_type"]) for found in each if "rope_type" in found}


class Policy(torch.nn.Module):
    """The module that is trained: `model` of transformers, with the head on response tokens alone.

    kernel, head_kernel: how attention over shared prompts (attention.py) and log-probs (logprobs.py) are computed.
    """

    def __init__(
        self, model: PreTrainedModel, share_prompts: bool, kernel: Kernel = "auto", head_kernel: HeadKernel = "chunked"
    ) -> None:
        """Wrap `model`; with `share_prompts` its attention becomes that of packed batches.

        Raises ValueError when the architecture is not known to be exact with shared prompts (see `why_padded`).
        """
        super().__init__()
        self.model = model
        self.share_prompts = share_prompts
        self.kernel: Kernel = kernel
        if share_prompts:
            if reason := why_padded(model):
                raise ValueError(f"shared prompts are not possible: {reason}")
            model.set_attn_implementation(SHARED_PROMPT)
            self.head = ResponseHead(model.get_output_embeddings(), head_kernel)

    def forward(self, batch: PackedBatch | PaddedBatch) -> torch.Tensor:
        """Return the summed log-probs of each response, float32 [sequences]."""
        if isinstance(batch, PaddedBatch):
            return padded_sequence_logps(self.model, batch)
        hidden = shared_prompt_hidden(self.model.base_model, batch, self.kernel)
        logps = self.head(hidden[batch.predicting], batch.targets)
        return sum_by_sequence(logps, batch.sequence_of, batch.num_sequences)


class ResponseHead(torch.nn.Module):
    """The language model head: its weights are those of `linear`, so one parameter has two names.

    A module of its own because ZeRO 3 gathers a parameter when a module that has it is called.
    """

    def __init__(self, linear: Any, kernel: HeadKernel) -> None:
        super().__init__()
        self.compute = HEAD_KERNELS[kernel]
        self.weight: torch.Tensor = linear.weight
        self.bias: torch.Tensor | None = linear.bias

    def forward(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the log-prob of each target, float32 [tokens], given hidden states [tokens, hidden size]."""
        return self.compute(hidden, self.weight, self.bias, targets)


def shared_prompt_hidden(base_model: torch.nn.Module, batch: PackedBatch, kernel: Kernel = "auto") -> torch.Tensor:
    """Return the last hidden state of every token, [tokens, hidden size].

    base_model: without its head, with the attention implementation `attention.SHARED_PROMPT`.
    """
    return base_model(
        input_ids=batch.input_ids[None],
        position_ids=batch.position_ids[None],
        use_cache=False,
        shared_prompts=SharedPrompts(batch.layout, kernel),
    ).last_hidden_state[0]


def shared_prompt_logits(classifier: Any, batch: PackedBatch, kernel: Kernel = "auto") -> torch.Tensor:
    """Return the logits of a sequence classifier at each response's last token, [sequences, labels].

    classifier: one of SHARED_PROMPT_CLASSIFIERS, with the attention implementation `attention.SHARED_PROMPT`.
    """
    hidden = shared_prompt_hidden(classifier.base_model, batch, kernel)
    return classifier.score(hidden[batch.last_tokens])
