"""What SFT and WRPO compute from a batch: the loss to minimise and the sums to report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from wrpo_ray.batching import TokenizedRow
from wrpo_ray.config import WRPOConfig
from wrpo_ray.objectives import ObjectiveTerms, SequenceLogps, preference_objective
from wrpo_ray.schedules import alpha_at


class StageLoss(NamedTuple):
    """loss: the rows' share of the global batch's loss, a scalar; sums: values summed over the rows, to be reported."""

    loss: Tensor
    sums: dict[str, float]


class Stage(Protocol):
    """One kind of training."""

    def normalizer(self, rows: Sequence[TokenizedRow]) -> int:
        """Return what the loss of a global batch with these rows is divided by."""
        ...

    def loss(
        self, rows: Sequence[TokenizedRow], weights: Tensor, logps: Tensor, normalizer: int, step: int
    ) -> StageLoss:
        """Return the loss of some rows of a global batch; weights: [rows], logps: [responses * rows]."""
        ...

    def extra_metrics(self, step: int) -> Mapping[str, float]:
        """Return what is known without a batch."""
        ...


class SFTStage:
    """Negative log-likelihood of response tokens, per token of the global batch."""

    def normalizer(self, rows: Sequence[TokenizedRow]) -> int:
        """Count the response tokens of the whole batch, so that accumulation and ranks cannot change the gradient."""
        return sum(row.num_response_tokens for row in rows)

    def loss(
        self, rows: Sequence[TokenizedRow], weights: Tensor, logps: Tensor, normalizer: int, step: int
    ) -> StageLoss:
        """See Stage."""
        loss = -(weights * logps).sum() / normalizer
        return StageLoss(loss, {"logps/chosen": float((weights * logps.detach()).sum())})

    def extra_metrics(self, step: int) -> Mapping[str, float]:
        """See Stage."""
        return {}


class WRPOStage:
    """A preference objective, as the mean over the quadruples of the global batch."""

    def __init__(self, config: WRPOConfig, num_steps: int, reference: Mapping[str, tuple[float, float, float]]) -> None:
        self.config, self.num_steps, self.reference = config, num_steps, reference

    def normalizer(self, rows: Sequence[TokenizedRow]) -> int:
        """See Stage."""
        return len(rows)

    def loss(
        self, rows: Sequence[TokenizedRow], weights: Tensor, logps: Tensor, normalizer: int, step: int
    ) -> StageLoss:
        """See Stage."""
        policy = SequenceLogps(*logps.chunk(3))
        terms = preference_objective(
            policy, self._reference(rows, logps), _num_tokens(rows, logps), self.config, self._alpha(step)
        )
        return StageLoss((weights * terms.loss).sum() / normalizer, _preference_sums(weights, terms, policy))

    def extra_metrics(self, step: int) -> Mapping[str, float]:
        """See Stage."""
        return {"alpha": self._alpha(step)}

    def _alpha(self, step: int) -> float:
        return alpha_at(step, self.num_steps, self.config.alpha)

    def _reference(self, rows: Sequence[TokenizedRow], like: Tensor) -> SequenceLogps:
        values = torch.tensor([self.reference[row.prompt_id] for row in rows], dtype=like.dtype, device=like.device)
        return SequenceLogps(*values.unbind(dim=1))


def _num_tokens(rows: Sequence[TokenizedRow], like: Tensor) -> SequenceLogps:
    counts = torch.tensor([[len(ids) for ids in row.responses] for row in rows], dtype=like.dtype, device=like.device)
    return SequenceLogps(*counts.unbind(dim=1))


def _preference_sums(weights: Tensor, terms: ObjectiveTerms, policy: SequenceLogps) -> dict[str, float]:
    values = {
        "rewards/source_chosen": terms.source_chosen,
        "rewards/target_chosen": terms.target_chosen,
        "rewards/chosen": terms.chosen,
        "rewards/rejected": terms.rejected,
        "rewards/margins": terms.chosen - terms.rejected,
        "rewards/accuracies": (terms.chosen > terms.rejected).float(),
        "rewards/accuracies_source": (terms.source_chosen > terms.rejected).float(),
        "logps/source_chosen": policy.source_chosen,
        "logps/target_chosen": policy.target_chosen,
        "logps/rejected": policy.rejected,
    }
    return {name: float((weights * value.detach()).sum()) for name, value in values.items()}
