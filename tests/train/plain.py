"""The same training in a few lines of plain torch: no Ray, no DeepSpeed, one sequence at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import logsigmoid
from transformers import AutoModelForCausalLM

from wrpo_ray.batching import epoch_order
from wrpo_ray.train.tokens import TokenRow


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def logp(model: Any, row: TokenRow, name: str) -> torch.Tensor:
    """Return the summed log-prob of one response."""
    ids = torch.tensor([row["prompt"] + row[name]])
    logps = model(ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
    return logps[len(row["prompt"]) - 1 :].sum()


def train(model: Any, rows: Sequence[TokenRow], config: Any, batch_loss: Any) -> list[float]:
    """Train in place and return the loss of every step; batch_loss(rows of the step, step, steps) -> scalar."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, eps=config.adam_epsilon, weight_decay=0.0
    )
    order = epoch_order(len(rows), 42, 0)
    size = config.global_batch_size
    batches = [order[first : first + size] for first in range(0, len(rows), size)]
    losses = []
    for step, batch in enumerate(batches):
        loss = batch_loss([rows[index] for index in batch], step, len(batches))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        optimizer.step()
        losses.append(loss.item())
    return losses


def sft_loss(model: Any) -> Any:
    def loss(rows: Sequence[TokenRow], step: int, num_steps: int) -> torch.Tensor:
        return -sum(logp(model, row, "response") for row in rows) / sum(len(row["response"]) for row in rows)

    return loss


def wrpo_loss(model: Any, reference: Any, beta: float, alpha_end: float) -> Any:
    def ratio(row: TokenRow, name: str) -> torch.Tensor:
        with torch.no_grad():
            frozen = logp(reference, row, name)
        return logp(model, row, name) - frozen

    def loss(rows: Sequence[TokenRow], step: int, num_steps: int) -> torch.Tensor:
        alpha = alpha_end * step / num_steps
        margins = [
            alpha * ratio(row, "source_chosen") + (1 - alpha) * ratio(row, "target_chosen") - ratio(row, "rejected")
            for row in rows
        ]
        return -logsigmoid(beta * torch.stack(margins)).mean()

    return loss
