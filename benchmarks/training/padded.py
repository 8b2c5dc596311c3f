"""The published method's step: all responses of a batch padded in one forward pass, prompts repeated, whole logits.

Written from a description of the method (https://arxiv.org/abs/2412.03187 and its public code), not copied. Rows are
stacked [all y_ws; all y_wt; all y_l] and padded to the longest; the frozen reference runs in every step; log-probs come
from float32 logits of every position and the whole vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from transformers import LlamaForCausalLM

from benchmarks.training.cases import Case, frozen_copy, make_model, make_optimizer, margin_loss
from benchmarks.training.workloads import PAD_ID, Batch


def sequences(batch: Batch) -> list[tuple[list[int], list[int]]]:
    """Return (prompt, response) of every response, all first responses before all second ones."""
    longest = max(len(row.responses) for row in batch)
    return [(row.prompt, row.responses[n]) for n in range(longest) for row in batch if n < len(row.responses)]


def pad(batch: Batch, device: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return token ids, attention mask and labels (-100 off the responses), each [responses, longest]."""
    pairs = sequences(batch)
    longest = max(len(prompt) + len(response) for prompt, response in pairs)
    ids = torch.full((len(pairs), longest), PAD_ID)
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, -100)
    for number, (prompt, response) in enumerate(pairs):
        end = len(prompt) + len(response)
        ids[number, :end] = torch.tensor(prompt + response)
        mask[number, :end] = 1
        labels[number, len(prompt) : end] = ids[number, len(prompt) : end]
    return ids.to(device), mask.to(device), labels.to(device)


def sequence_logps(
    model: LlamaForCausalLM, ids: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Return summed log-probs [responses] from the log-softmax of whole float32 logits."""
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float()[:, :-1]
    targets = labels[:, 1:]
    counted = targets != -100
    token_logps = logits.log_softmax(-1).gather(-1, targets.masked_fill(~counted, 0).unsqueeze(-1)).squeeze(-1)
    return (token_logps * counted).sum(-1)


class Padded:
    """Variant (1)."""

    def __init__(self, case: Case, model: LlamaForCausalLM | None = None) -> None:
        self.case = case
        self.model = model or make_model(case)

    def prepare(self) -> None:
        """Make all that is not the bare model."""
        self.reference = frozen_copy(self.model)
        self.optimizer = make_optimizer(self.model)

    def loss(self, number: int) -> torch.Tensor:
        batch = self.case.batches[number]
        tensors = pad(batch, self.case.device)
        logps = sequence_logps(self.model, *tensors)
        with torch.no_grad():
            reference = sequence_logps(self.reference, *tensors)
        # Back to row by row.
        order = torch.tensor(by_row(batch), device=logps.device)
        return margin_loss(logps[order], reference[order], [len(row.responses) for row in batch])

    def backward(self, number: int) -> float:
        """Accumulate the gradient of the mean loss of batch `number`; return the loss."""
        loss = self.loss(number)
        loss.backward()
        return loss.item()

    def step(self, number: int, hold_gradients: bool, lap: Callable[[], None]) -> None:
        """Forward, backward, `lap()`, and optimizer on batch `number`."""
        self.backward(number)
        lap()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=not hold_gradients)


def by_row(batch: Batch) -> list[int]:
    """Return where each row's responses stand among the stacked ones: of the first row, of the second, ..."""
    numbers = [(number, n) for n in range(max(len(row.responses) for row in batch))
               for number, row in enumerate(batch) if n < len(row.responses)]  # fmt: skip
    return sorted(range(len(numbers)), key=numbers.__getitem__)
