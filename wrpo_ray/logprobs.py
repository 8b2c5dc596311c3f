"""Log-probs of response tokens."""

from __future__ import annotations

import torch
from torch import Tensor


def response_logps(logits: Tensor, input_ids: Tensor, response_mask: Tensor) -> Tensor:
    """Return the summed log-prob of the response tokens of each row, in float32.

    logits: [rows, length, vocabulary]; input_ids: [rows, length]; response_mask: [rows, length], true on response
    tokens, whose first one may not be at position 0. Result: [rows].
    Only positions that predict a response token are taken to float32: prompts are most of a batch, and a
    vocabulary-sized float32 copy of them is the largest tensor of a plain implementation.
    """
    predicts = response_mask[:, 1:]
    labels = input_ids[:, 1:][predicts]
    selected = logits[:, :-1][predicts].float()
    token_logps = selected.gather(-1, labels.unsqueeze(-1)).squeeze(-1) - selected.logsumexp(-1)
    row_of_token = torch.nonzero(predicts)[:, 0]
    return token_logps.new_zeros(len(input_ids)).index_add(0, row_of_token, token_logps)
