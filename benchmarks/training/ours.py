"""wrpo_ray's step: shared prompts, packed rows, log-probs without logits, a reference that was computed once.

Each of the four can be switched off, so that a table shows what it brings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import LlamaForCausalLM

from benchmarks.training.cases import ALPHA, BETA, Case, frozen_copy, make_model, make_optimizer, margin_loss
from benchmarks.training.padded import by_row, sequences
from benchmarks.training.workloads import PAD_ID, RESPONSES_PER_QUADRUPLE, Batch
from wrpo_ray.batching import PaddedBatch, pad_sequences
from wrpo_ray.config import WRPOConfig
from wrpo_ray.logprobs import selected_logps
from wrpo_ray.objectives import SequenceLogps, preference_objective
from wrpo_ray.packing import PackedBatch, pack_groups
from wrpo_ray.policy import Policy


@dataclass(frozen=True)
class Options:
    """What is switched off, and the attention kernel (wrpo_ray.attention)."""

    live_reference: bool = False
    padded: bool = False
    full_logits: bool = False
    unpacked: bool = False
    kernel: Any = "auto"


class Ours:
    """Variant (3)."""

    def __init__(self, case: Case, options: Options = Options(), model: LlamaForCausalLM | None = None) -> None:
        self.case = case
        self.options = options
        self.model = model or make_model(case)

    def prepare(self) -> None:
        """Make all that is not the bare model; the reference is asked here once, unless it is a live one."""
        reference = self._policy(frozen_copy(self.model)) if self.options.live_reference else None
        self.policy = self._policy(self.model)
        self.reference = reference
        self.cached = [[] if reference else self._reference_logps(self.policy, batch) for batch in self.case.batches]
        self.optimizer = make_optimizer(self.model)

    def _policy(self, model: LlamaForCausalLM) -> Policy:
        policy = Policy(model, share_prompts=not self.options.padded, kernel=self.options.kernel)
        if self.options.full_logits:
            policy.head.compute = _logps_of_whole_logits
        return policy

    def _parts(self, batch: Batch) -> list[Batch]:
        return [[row] for row in batch] if self.options.unpacked else [batch]

    def _reference_logps(self, policy: Policy, batch: Batch) -> list[torch.Tensor]:
        with torch.no_grad():
            return [self._logps(policy, part) for part in self._parts(batch)]

    def _logps(self, policy: Policy, part: Batch) -> torch.Tensor:
        """Return the log-prob of every response, row by row."""
        if not self.options.padded:
            return policy(self._packed(part))
        prompts, responses = zip(*sequences(part), strict=True)
        padded: PaddedBatch = pad_sequences(list(prompts), list(responses), PAD_ID).to(torch.device(self.case.device))
        return policy(padded)[torch.tensor(by_row(part), device=self.case.device)]

    def _packed(self, part: Batch) -> PackedBatch:
        return pack_groups([row.prompt for row in part], [row.responses for row in part]).to(
            torch.device(self.case.device)
        )

    def backward(self, number: int) -> float:
        """Accumulate the gradient of the mean loss of batch `number`; return the loss."""
        batch = self.case.batches[number]
        total = 0.0
        for place, part in enumerate(self._parts(batch)):
            logps = self._logps(self.policy, part)
            if self.reference is None:
                reference = self.cached[number][place]
            else:
                with torch.no_grad():
                    reference = self._logps(self.reference, part)
            loss = preference_loss(logps, reference, part) * (len(part) / len(batch))
            loss.backward()
            total += loss.item()
        return total

    def step(self, number: int, hold_gradients: bool, lap: Callable[[], None]) -> None:
        """Forward, backward, `lap()`, and optimizer on batch `number`."""
        self.backward(number)
        lap()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=not hold_gradients)


def preference_loss(logps: torch.Tensor, reference: torch.Tensor, rows: Batch) -> torch.Tensor:
    """Return the mean loss of the rows: of quadruples by wrpo_ray's objective."""
    counts = [len(row.responses) for row in rows]
    if any(count != RESPONSES_PER_QUADRUPLE for count in counts):
        return margin_loss(logps, reference, counts)
    lengths = torch.tensor([[len(response) for response in row.responses] for row in rows], device=logps.device)
    policy, frozen = (
        SequenceLogps(*values.view(-1, RESPONSES_PER_QUADRUPLE).unbind(1)) for values in (logps, reference)
    )
    config = WRPOConfig(learning_rate=1.0, beta=BETA)
    return preference_objective(policy, frozen, SequenceLogps(*lengths.unbind(1)), config, ALPHA).loss.mean()


def _logps_of_whole_logits(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor
) -> torch.Tensor:
    return selected_logps(torch.nn.functional.linear(hidden, weight, bias), targets)
