"""Every objective against numbers worked out by hand, and the identities that tie them together."""

import math

import pytest
import torch

from wrpo_ray.config import WRPOConfig
from wrpo_ray.objectives import SequenceLogps, preference_objective

# One row: y_ws, y_wt, y_l have 2, 4 and 5 tokens.
POLICY = SequenceLogps(*(torch.tensor([value], dtype=torch.float64) for value in (-10.0, -8.0, -20.0)))
REFERENCE = SequenceLogps(*(torch.tensor([value], dtype=torch.float64) for value in (-12.0, -9.0, -17.0)))
NUM_TOKENS = SequenceLogps(*(torch.tensor([value]) for value in (2, 4, 5)))
# Log-ratios: 2, 1, -3; per token 1, 0.25, -0.6. Log-probs per token: -5, -2, -4.
ALPHA = 0.25


def loss_of(objective, alpha=ALPHA, policy=POLICY, reference=REFERENCE, **fields):
    config = WRPOConfig.model_validate({"learning_rate": 1e-6, "objective": objective, "beta": 0.1, **fields})
    return preference_objective(policy, reference, NUM_TOKENS, config, alpha)


def softplus(value):
    return math.log1p(math.exp(value))


@pytest.mark.parametrize(
    ("objective", "fields", "expected"),
    [
        # chosen 0.25 * 2 + 0.75 * 1 = 1.25; margin 4.25
        ("wrpo", {}, softplus(-0.1 * 4.25)),
        # chosen 0.25 * 1 + 0.75 * 0.25 = 0.4375; margin 1.0375
        ("wrpo", {"length_normalized": True}, softplus(-0.1 * 1.0375)),
        # chosen 0.25 * -5 + 0.75 * -2 = -2.75; margin 1.25
        ("wrpo_simpo", {"beta": 2.0, "gamma": 0.5}, softplus(-(2.0 * 1.25 - 0.5))),
        ("wrpo_ipo", {"tau": 0.25}, (4.25 - 2.0) ** 2),
        ("wrpo_ipo", {"tau": 0.25, "length_normalized": True}, (1.0375 - 2.0) ** 2),
        # target pair only: log-ratio margin 4, log-probs per token margin 2
        ("dpo", {}, softplus(-0.1 * 4.0)),
        ("simpo", {"beta": 2.0, "gamma": 0.5}, softplus(-(2.0 * 2.0 - 0.5))),
        ("ipo", {"tau": 0.25}, (4.0 - 2.0) ** 2),
    ],
)
def test_loss_is_the_one_worked_out_by_hand(objective, fields, expected):
    assert loss_of(objective, **fields).loss.item() == pytest.approx(expected, abs=1e-12)


def test_rewards_of_wrpo():
    terms = loss_of("wrpo")
    values = [term.item() for term in terms[1:]]
    assert values == pytest.approx([0.2, 0.1, 0.125, -0.3], abs=1e-12)


def test_alpha_zero_is_dpo_on_the_target_pair_and_alpha_one_on_the_source_pair():
    source_as_target = (SequenceLogps(x[0], x[0], x[2]) for x in (POLICY, REFERENCE))
    policy, reference = source_as_target
    assert loss_of("wrpo", alpha=0.0).loss.item() == pytest.approx(loss_of("dpo").loss.item(), abs=1e-12)
    on_source = loss_of("dpo", policy=policy, reference=reference).loss.item()
    assert loss_of("wrpo", alpha=1.0).loss.item() == pytest.approx(on_source, abs=1e-12)


@pytest.mark.parametrize("objective", ["wrpo", "wrpo_ipo", "dpo", "ipo"])
def test_a_constant_added_to_policy_and_reference_changes_nothing(objective):
    policy, reference = (SequenceLogps(*(value + 7.0 for value in logps)) for logps in (POLICY, REFERENCE))
    moved = loss_of(objective, policy=policy, reference=reference)
    assert moved.loss.item() == pytest.approx(loss_of(objective).loss.item(), abs=1e-9)


def test_gradient_of_wrpo_has_the_published_shape():
    policy = SequenceLogps(*(value.clone().requires_grad_() for value in POLICY))
    loss_of("wrpo", policy=policy).loss.sum().backward()
    weight = 1.0 / (1.0 + math.exp(0.1 * 4.25))
    expected = [-0.1 * weight * part for part in (ALPHA, 1 - ALPHA, -1.0)]
    assert [value.grad.item() for value in policy if value.grad is not None] == pytest.approx(expected, abs=1e-12)


def test_an_objective_with_reference_refuses_to_run_without():
    with pytest.raises(ValueError, match="needs reference"):
        loss_of("wrpo", reference=None)
    assert loss_of("simpo", reference=None).loss.isfinite().all()
