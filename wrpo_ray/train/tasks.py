"""What SFT and WRPO do with one micro-batch: a sum of losses, and sums of what is logged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from wrpo_ray.batching import MicroBatch, StepPlan
from wrpo_ray.config import WRPOConfig
from wrpo_ray.objectives import ObjectiveTerms, SequenceLogps, effective_alpha, needs_reference, preference_objective
from wrpo_ray.schedules import alpha_at
from wrpo_ray.train.collate import Collator
from wrpo_ray.train.tokens import QUADRUPLE_RESPONSES, TokenRow, TokenTable


@dataclass(frozen=True)
class MicroResult:
    """Sums over one micro-batch's real rows: the loss to differentiate, and the numbers to log, under their names.

    row_losses: loss of each row, without gradient, [rows].
    """

    loss_sum: torch.Tensor
    sums: dict[str, torch.Tensor]
    row_losses: torch.Tensor


class Task(Protocol):
    """SFT or WRPO. `units` is what the loss of a whole global batch is divided by: tokens, or rows.

    `run` calls the model with a batch of the rows and gets the summed log-probs of their responses (policy.py).
    """

    def units(self, plan: StepPlan, table: TokenTable) -> int: ...

    def step_metrics(self, step: int, num_steps: int) -> dict[str, float]: ...

    def run(
        self, model: Any, rows: Sequence[TokenRow], micro: MicroBatch, step: int, device: torch.device
    ) -> MicroResult: ...


class SFTTask:
    """Negative log-likelihood of response tokens, averaged over all response tokens of the global batch."""

    def __init__(self, collate: Collator) -> None:
        self.collate = collate

    def units(self, plan: StepPlan, table: TokenTable) -> int:
        return table.count(plan.rows)

    def step_metrics(self, step: int, num_steps: int) -> dict[str, float]:
        return {}

    def run(
        self, model: Any, rows: Sequence[TokenRow], micro: MicroBatch, step: int, device: torch.device
    ) -> MicroResult:
        row_losses = -model(self.collate(rows).to(device))
        loss_sum = (row_losses * torch.tensor(micro.weights, device=device)).sum()
        return MicroResult(loss_sum, {}, row_losses.detach())


class WRPOTask:
    """A preference objective, averaged over the rows of the global batch."""

    def __init__(self, config: WRPOConfig, num_steps: int, collate: Collator) -> None:
        self.config = config
        self.num_steps = num_steps
        self.collate = collate

    def units(self, plan: StepPlan, table: TokenTable) -> int:
        return len(plan.rows)

    def step_metrics(self, step: int, num_steps: int) -> dict[str, float]:
        return {"alpha": effective_alpha(self.config, alpha_at(step, num_steps, self.config.alpha))}

    def run(
        self, model: Any, rows: Sequence[TokenRow], micro: MicroBatch, step: int, device: torch.device
    ) -> MicroResult:
        batch = self.collate(rows).to(device)
        policy = split_responses(model(batch))
        num_tokens = split_responses(batch.num_response_tokens)
        reference = reference_logps(rows, device) if needs_reference(self.config) else None
        alpha = alpha_at(step, self.num_steps, self.config.alpha)
        terms = preference_objective(policy, reference, num_tokens, self.config, alpha)
        weights = torch.tensor(micro.weights, device=device)
        sums = {name: (value.detach() * weights).sum() for name, value in wrpo_metrics(terms, policy).items()}
        return MicroResult((terms.loss * weights).sum(), sums, terms.loss.detach())


def split_responses(values: torch.Tensor) -> SequenceLogps:
    """Return [3 * rows] values, three of each row side by side, as three tensors [rows]."""
    return SequenceLogps(*values.view(-1, 3).unbind(dim=1))


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
