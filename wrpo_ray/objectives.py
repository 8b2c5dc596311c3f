"""Preference objectives as pure functions of sequence log-probs.

All of them are one form: a weighted margin between chosen and rejected, and a loss of that margin. The source response
y_ws weighs alpha, the target's own y_wt 1 - alpha, so the paper's baselines are the case alpha = 0.
Source: WRPO, https://arxiv.org/abs/2412.03187, section 3.3 and Table 5.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from wrpo_ray.config import WRPOConfig

WITHOUT_REFERENCE = frozenset({"wrpo_simpo", "simpo"})
WITHOUT_SOURCE = frozenset({"dpo", "ipo", "simpo"})


class SequenceLogps(NamedTuple):
    """One value per row for each response of a quadruple, each of shape [batch]."""

    source_chosen: Tensor
    target_chosen: Tensor
    rejected: Tensor


class ObjectiveTerms(NamedTuple):
    """Loss and rewards per row, each of shape [batch]; `chosen` is the alpha-weighted reward."""

    loss: Tensor
    source_chosen: Tensor
    target_chosen: Tensor
    chosen: Tensor
    rejected: Tensor


def needs_reference(config: WRPOConfig) -> bool:
    """Tell whether the objective compares with the frozen Target-SFT."""
    return config.objective not in WITHOUT_REFERENCE


def effective_alpha(config: WRPOConfig, alpha: float) -> float:
    """Return the weight that the source response really has: none in the baselines."""
    return 0.0 if config.objective in WITHOUT_SOURCE else alpha


def preference_objective(
    policy: SequenceLogps, reference: SequenceLogps | None, num_tokens: SequenceLogps, config: WRPOConfig, alpha: float
) -> ObjectiveTerms:
    """Return loss and rewards of every row.

    policy, reference: summed log-probs of the response tokens; reference may be None for the SimPO forms.
    num_tokens: numbers of response tokens, for the forms that divide by them.
    """
    weight = effective_alpha(config, alpha)
    rewards = _rewards(policy, reference, num_tokens, config)
    chosen = weight * rewards.source_chosen + (1.0 - weight) * rewards.target_chosen
    loss = _loss(chosen - rewards.rejected, config)
    return ObjectiveTerms(loss, rewards.source_chosen, rewards.target_chosen, chosen, rewards.rejected)


def _rewards(
    policy: SequenceLogps, reference: SequenceLogps | None, num_tokens: SequenceLogps, config: WRPOConfig
) -> SequenceLogps:
    """r(x, y) = beta * log(pi / pi_ref); SimPO: beta / |y| * log pi; IPO: log(pi / pi_ref) without beta."""
    logratios = policy
    if needs_reference(config):
        if reference is None:
            raise ValueError(f"the objective {config.objective} needs reference log-probs")
        logratios = SequenceLogps(*(own - frozen for own, frozen in zip(policy, reference, strict=True)))
    if config.length_normalized or config.objective in WITHOUT_REFERENCE:
        logratios = SequenceLogps(*(value / count for value, count in zip(logratios, num_tokens, strict=True)))
    beta = 1.0 if config.objective in ("ipo", "wrpo_ipo") else config.beta
    return SequenceLogps(*(beta * value for value in logratios))


def _loss(margin: Tensor, config: WRPOConfig) -> Tensor:
    match config.objective:
        case "wrpo" | "dpo":
            # L = -log sigmoid(alpha * r(x, y_ws) + (1 - alpha) * r(x, y_wt) - r(x, y_l))
            return -logsigmoid(margin)
        case "wrpo_simpo" | "simpo":
            # L = -log sigmoid(weighted margin of beta / |y| * log pi, less gamma)
            return -logsigmoid(margin - config.gamma)
        case "wrpo_ipo" | "ipo":
            # L = (weighted margin of log(pi / pi_ref) - 1 / (2 tau)) ^ 2
            return torch.square(margin - 1.0 / (2.0 * config.tau))
