"""Log-probs of response tokens, without float32 logits of the full vocabulary for prompt or padding positions."""

from __future__ import annotations

from typing import Any

import torch

from wrpo_ray.batching import PaddedBatch


def sequence_logps(model: Any, batch: PaddedBatch) -> torch.Tensor:
    """Return the summed log-probs of each sequence's response tokens, float32 [sequences].

    model: a causal language model of transformers, or a DeepSpeed engine around one.
    The logit at position p predicts the token at p + 1.
    """
    targets = batch.response_mask[:, 1:]
    # Columns in which at least one sequence predicts a response token: the language model head runs on these only.
    columns = targets.any(dim=0).nonzero().squeeze(1)
    logits: torch.Tensor = model(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False, logits_to_keep=columns
    ).logits
    if logits.shape[1] == batch.input_ids.shape[1]:
        # A model that does not know logits_to_keep gives all positions.
        logits = logits[:, columns]
    kept = targets[:, columns]
    token_logps = selected_logps(logits[kept], batch.input_ids[:, 1:][:, columns][kept])
    return torch.zeros(kept.shape, dtype=torch.float32, device=kept.device).masked_scatter(kept, token_logps).sum(dim=1)


def selected_logps(logits: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
    """Return log softmax(logits)[token]: logits [tokens, vocabulary] of any float type, token_ids [tokens]; float32."""
    logits = logits.float()
    return logits.gather(-1, token_ids.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(dim=-1)
