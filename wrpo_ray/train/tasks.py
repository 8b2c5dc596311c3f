"""What SFT and WRPO do with one micro-batch: a sum of losses, and sums of what is logged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from wrpo_ray.batching import MicroBatch, PaddedBatch, StepPlan, pad_sequences
from wrpo_ray.config import WRPOConfig
from wrpo_ray.logprobs import sequence_logps
from wrpo_ray.objectives import ObjectiveTerms, SequenceLogps, effective_alpha, needs_reference, preference_objective
from wrpo_ray.schedules import alpha_at
from wrpo_ray.train.tokens import QUADRUPLE_RESPONSES, SFT_RESPONSES, TokenRow, TokenTable


@dataclass(frozen=True)
class MicroResult:
    """Sums over one micro-batch's real rows: the loss to differentiate, and the numbers to log, under their names.

    row_losses: loss of each row, without gradient, [rows].
    """

    loss_sum: torch.Tensor
    sums: dict[str, torch.Tensor]
    row_losses: torch.Tensor


class Task(Protocol):
    """SFT or WRPO. `units` is what the loss of a whole global batch is divided by: tokens, or rows."""

    @property
    def responses(self) -> tuple[str, ...]: ...

    def units(self, plan: StepPlan, table: TokenTable) -> int: ...

    def step_metrics(self, step: int, num_steps: int) -> dict[str, float]: ...

    def run(
        self, model: Any, rows: Sequence[TokenRow], micro: MicroBatch, step: int, device: torch.device
    ) -> MicroResult: ...


class SFTTask:
    """Negative log-likelihood of response tokens, averaged over all response tokens of the global batch."""

    responses: tuple[str, ...] = SFT_RESPONSES

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def units(self, plan: StepPlan, table: TokenTable) -> int:
        return table.count(plan.rows)

    def step_metrics(self, step: int, num_steps: int) -> dict[str, float]:
        return {}

    def run(
        self, model: Any, rows: Sequence[TokenRow], micro: MicroBatch, step: int, device: torch.device
    ) -> MicroResult:
        batch = stack_responses(rows, self.responses, self.pad_token_id).to(device)
        row_losses = -sequence_logps(model, batch)
        loss_sum = (row_losses * torch.tensor(micro.weights, device=device)).sum()
        return MicroResult(loss_sum, {}, row_losses.detach())


class WRPOTask:
    """A preference objective, averaged over the rows of the global batch."""

    responses: tuple[str, ...] = QUADRUPLE_RESPONSES

    def __init__(self, config: WRPOConfig, num_steps: int, pad_token_id: int) -> None:
        self.config = config
        self.num_steps = num_steps
        self.pad_token_id = pad_token_id

    def units(self, plan: StepPlan, table: TokenTable) -> int:
        return len(plan.rows)

    def step_metrics(self, step: int, num_steps: int) -> dict[str, float]:
        return {"alpha": effective_alpha(self.config, alpha_at(step, num_steps, self.config.alpha))}

    def run(
        self, model: Any, rows: Sequence[TokenRow], micro: MicroBatch, step: int, device: torch.device
    ) -> MicroResult:
        batch = stack_responses(rows, self.responses, self.pad_token_id).to(device)
        policy = split_responses(sequence_logps(model, batch))
        num_tokens = split_responses(batch.response_mask.sum(dim=1))
        reference = reference_logps(rows, device) if needs_reference(self.config) else None
        alpha = alpha_at(step, self.num_steps, self.config.alpha)
        terms = preference_objective(policy, reference, num_tokens, self.config, alpha)
        weights = torch.tensor(micro.weights, device=device)
        sums = {name: (value.detach() * weights).sum() for name, value in wrpo_metrics(terms, policy).items()}
        return MicroResult((terms.loss * weights).sum(), sums, terms.loss.detach())


def stack_responses(rows: Sequence[TokenRow], responses: Sequence[str], pad_token_id: int) -> PaddedBatch:
    """Return all first responses, then all second ones, ...: right-padded, [responses * rows, length]."""
    prompts = [row["prompt"] for _ in responses for row in rows]
    return pad_sequences(prompts, [row[name] for name in responses for row in rows], pad_token_id)


def split_responses(values: torch.Tensor) -> SequenceLogps:
    """Return [3 * rows] values, stacked by `stack_responses`, as three tensors [rows]."""
    return SequenceLogps(*values.chunk(3))


def reference_logps(rows: Sequence[TokenRow], device: torch.device) -> SequenceLogps:
    """Return the stored log-probs of the reference, float32, three tensors [rows]."""
    columns = ([row[f"{name}_logps"] for row in rows] for name in QUADRUPLE_RESPONSES)
    return SequenceLogps(*(torch.tensor(column, dtype=torch.float32, device=device) for column in columns))


def wrpo_metrics(terms: ObjectiveTerms, policy: SequenceLogps) -> dict[str, torch.Tensor]:
    """Return what is logged of each row, under the names of the metrics, [rows]."""
    return {
        "rewards/chosen": terms.chosen,
        "rewards/rejected": terms.rejected,
        "rewards/margins": terms.chosen - terms.rejected,
        "rewards/accuracies": (terms.chosen > terms.rejected).float(),
        "rewards/source_chosen": terms.source_chosen,
        "rewards/target_chosen": terms.target_chosen,
        "rewards/accuracies_source": (terms.source_chosen > terms.rejected).float(),
        "logps/source_chosen": policy.source_chosen,
        "logps/target_chosen": policy.target_chosen,
        "logps/rejected": policy.rejected,
    }
