"""FLOPs of forward and backward passes: 2 and 4 per active parameter and token, 2 more to compute activations again.

Attention over the context adds about 1 % for 650 tokens of an 8B model and is left out. Shares of the accelerator's
peak: published measurements of 8B models on H100 lie between 33 and 50 %, see docs/planning.md.
"""

from __future__ import annotations

from wrpo_ray.config import TrainConfig

SCORING_EFFICIENCY = 0.45
SFT_EFFICIENCY = 0.40
PREFERENCE_EFFICIENCY = 0.35
# Tokens of padded batches over tokens, for three responses padded to the longest.
PADDING = 1.4


def scoring_tokens(prompts: float, samples: float, prompt: float, response: float, shared: bool) -> float:
    """Return the tokens that scoring puts through the reward model; `shared`: each prompt once for its responses."""
    return prompts * (prompt + samples * response) if shared else prompts * samples * (prompt + response)


def quadruple_tokens(prompt: float, response: float, shared: bool) -> float:
    """Return the tokens of one quadruple: a prompt with three responses, or three padded rows."""
    return prompt + 3 * response if shared else 3 * (prompt + response) * PADDING


def forward_flops(parameters: float, tokens: float) -> float:
    """Return the FLOPs of a forward pass."""
    return 2 * parameters * tokens


def training_flops(parameters: float, tokens: float, train: TrainConfig) -> float:
    """Return the FLOPs of training on `tokens` for the section's epochs.

    With LoRA the weights' own gradients, a third of forward and backward, are not computed.
    """
    factor = 4 if train.lora else 6
    return (factor + 2 * train.activation_checkpointing) * parameters * tokens * train.num_epochs
