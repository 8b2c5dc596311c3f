"""What policies draw, against closed forms, and on tables of known make."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from benchmarks.allocation_tables import REGIMES, make
from wrpo_ray.allocation.audit import audit
from wrpo_ray.allocation.gain import first_samples
from wrpo_ray.allocation.halving import halve, marginal_gains
from wrpo_ray.allocation.model import RewardModel, fit, posterior
from wrpo_ray.allocation.normal import cdf
from wrpo_ray.allocation.paths import NO_SOURCE, paths
from wrpo_ray.allocation.policy import decide, first_counts
from wrpo_ray.allocation.replay import replay
from wrpo_ray.allocation.report import findings, target_kept
from wrpo_ray.allocation.slices import slices_of
from wrpo_ray.allocation.table import RewardTable
from wrpo_ray.config_allocation import AllocationConfig

BY_NAME = {regime.name: regime for regime in REGIMES}
PAPER = BY_NAME["paper, noise 0.5"]


def looked_at(table: RewardTable, count: int = 1) -> RewardTable:
    return table.masked(first_samples(table, np.full(table.drawn.shape[:2], count)))


def one_prompt(rewards: list[list[float]], num_drawn: list[int]) -> RewardTable:
    values = np.array([rewards])
    drawn = np.arange(values.shape[2]) < np.array(num_drawn)[None, :, None]
    tokens = np.where(drawn, 1, 0)
    names = tuple("abcdef"[: values.shape[1]])
    return RewardTable(("p",), names, (values.shape[2],) * len(names), values * drawn, tokens, drawn, drawn)


def test_the_normal_distribution_function_is_exact_to_a_millionth() -> None:
    points = np.linspace(-9, 9, 1237)
    exact = np.array([0.5 * math.erfc(-point / math.sqrt(2)) for point in points])
    assert np.abs(cdf(points) - exact).max() < 1e-6


def test_the_fit_finds_what_a_table_was_made_of() -> None:
    regime = dataclasses.replace(PAPER, quality=(1.0, 0.0, -1.0), costs=(1.0,) * 3, missing=0.1)
    table = make(regime, 8000, seed=4)
    model = fit(looked_at(table), table)
    assert model.noise == pytest.approx([0.5] * 3, rel=0.03)
    assert model.mean == pytest.approx([1.0, 0.0, -1.0], abs=0.1)
    # Difficulty is common (variance 4); what differs between two sources has twice the variance of their own halves.
    differing = model.covariance[0, 0] + model.covariance[1, 1] - 2 * model.covariance[0, 1]
    levels = make(dataclasses.replace(regime, noise=1e-9, missing=0.0), 8000, seed=4).rewards[:, :, 0]
    assert differing == pytest.approx((levels[:, 0] - levels[:, 1]).var(), rel=0.05)


def test_the_posterior_is_that_of_the_joint_normal_distribution() -> None:
    generator = np.random.default_rng(0)
    root = generator.normal(size=(3, 3))
    model = RewardModel(np.array([1.0, 0.0, 2.0]), root @ root.T + np.eye(3), np.array([0.5, 1.0, 2.0]), 100.0)
    table = one_prompt([[2.0, 3.0], [-1.0, 0.0], [0.0, 0.0]], num_drawn=[2, 1, 0])
    mean, spread = posterior(model, table)
    # Three observations, conditioned on one by one: levels 0, 0, 1 seen through noise.
    seen = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0]])
    covariance = seen @ model.covariance @ seen.T + np.diag([0.25, 0.25, 1.0])
    gain = model.covariance @ seen.T @ np.linalg.inv(covariance)
    assert mean[0] == pytest.approx(model.mean + gain @ (np.array([2.0, 3.0, -1.0]) - seen @ model.mean))
    assert spread[0] ** 2 == pytest.approx(np.diag(model.covariance - gain @ seen @ model.covariance))


def test_the_worth_of_a_response_is_its_expected_improvement_per_cost() -> None:
    model = RewardModel(np.zeros(2), np.diag([4.0, 1e-9]), np.array([1.5, 1.0]), np.inf)
    table = one_prompt([[0.0], [0.7]], num_drawn=[0, 1])
    found = paths(model, table, np.array([2.0, 1.0]))
    assert found.source.tolist() == [[0]]
    deviation = 2.5
    at = 0.7 / deviation
    exact = deviation * (math.exp(-(at**2) / 2) / math.sqrt(2 * math.pi) - at * 0.5 * math.erfc(at / math.sqrt(2)))
    assert found.worth[0, 0] == pytest.approx(exact / 2.0, rel=0.02)


def test_worth_never_rises_along_a_path_and_every_sample_is_on_it_once() -> None:
    table = make(PAPER, 300, seed=2)
    looks = looked_at(table)
    found = paths(fit(looks, table), looks, np.ones(10))
    assert (np.diff(found.worth, axis=1) <= 0).all()
    assert (found.counts(0.0, 10) == 4).all()
    assert (found.counts(np.inf, 10) == 0).all()
    # What is below a price need not be found.
    price = float(np.quantile(found.worth, 0.7))
    cut = paths(fit(looks, table), looks, np.ones(10), price)
    assert (cut.counts(price, 10) == found.counts(price, 10)).all()


def test_dear_sources_are_drawn_from_less() -> None:
    table = make(BY_NAME["equal sources, taste"], 400, seed=2)
    looks = looked_at(table)
    model = fit(looks, table)
    even = paths(model, looks, np.ones(10)).counts(0.1, 10).sum(axis=0)
    dear = paths(model, looks, np.array([8.0] + [1.0] * 9)).counts(0.1, 10).sum(axis=0)
    assert dear[0] < 0.5 * even[0]
    assert dear[1:].sum() >= even[1:].sum()


def test_nothing_is_worth_more_than_the_highest_reward_that_there_is() -> None:
    model = RewardModel(np.zeros(2), np.eye(2), np.ones(2), highest=1.0)
    at_the_top = paths(model, one_prompt([[1.0, 0.0], [0.0, 0.0]], num_drawn=[1, 1]), np.ones(2))
    assert at_the_top.worth.max() < 1e-12
    below = paths(model, one_prompt([[0.0, 0.0], [0.0, 0.0]], num_drawn=[1, 1]), np.ones(2))
    assert below.worth.max() > 0.1


def test_a_source_that_refused_a_prompt_is_not_asked_again() -> None:
    table = make(PAPER, 50, seed=2)
    looks = looked_at(table)
    looks.present[7, 3], looks.rewards[7, 3], looks.tokens[7, 3] = False, 0.0, 0
    found = paths(fit(looks, table), looks, np.ones(10))
    assert found.counts(0.0, 10)[7, 3] == 0
    assert (found.source[7] == NO_SOURCE).sum() == 4


def test_halving_leaves_out_a_copy_and_keeps_the_other_one() -> None:
    generator = np.random.default_rng(3)
    rewards = generator.normal(size=(500, 4, 2))
    rewards[:, 2] = rewards[:, 0]
    table = make(dataclasses.replace(PAPER, quality=(0.0,) * 4, costs=(1.0,) * 4, num_samples=2, missing=0.0), 500, 1)
    table = dataclasses.replace(table, rewards=rewards)
    assert marginal_gains(rewards.max(axis=2))[[0, 2]].tolist() == [0.0, 0.0]
    kept = halve(table, np.array([1.0, 1.0, 5.0, 1.0]), target=0.999, max_cost_share=1.0)
    assert kept.sources == (0, 1, 3)
    assert kept.gain_share == 1.0
    bounded = halve(table, np.array([1.0, 1.0, 5.0, 1.0]), target=0.999, max_cost_share=0.2)
    assert len(bounded.sources) == 1
    assert not bounded.target_reached


def test_the_first_load_is_the_slices_in_full_and_one_look_at_the_rest() -> None:
    slices = slices_of([str(number) for number in range(1000)], 0.05, 0.05, seed=1)
    waves, halving = (first_counts(policy, (5, 3), slices) for policy in ("waves", "halving"))
    assert (waves[slices.full] == [5, 3]).all()
    assert (waves[slices.rest] == 1).all()
    assert (halving[slices.full] == [5, 3]).all()
    assert (halving[slices.rest] == 0).all()


@pytest.mark.parametrize("policy", ["waves", "halving"])
def test_what_the_audit_slice_holds_changes_no_decision(policy: str) -> None:
    config = AllocationConfig(policy=policy, pilot_fraction=0.1, audit_fraction=0.1)
    table = make(PAPER, 1000, seed=5)
    slices = slices_of(table.prompt_ids, 0.1, 0.1, seed=1)
    revealed = table.masked(first_samples(table, first_counts(policy, table.num_samples, slices)))
    changed = revealed.rewards.copy()
    later = np.zeros(changed.shape, dtype=bool)
    later[slices.audit, :, 1:] = revealed.present[slices.audit, :, 1:]
    changed[later] += 50.0
    one = decide(config, revealed, slices, np.ones(10))
    other = decide(config, dataclasses.replace(revealed, rewards=changed), slices, np.ones(10))
    assert (one.counts == other.counts).all()
    assert one.summary == other.summary
    assert (one.further(revealed, slices)[slices.full] == 0).all()
    assert (one.counts <= 5).all()


@pytest.mark.parametrize("policy", ["waves", "halving"])
def test_the_order_of_prompts_changes_no_decision(policy: str) -> None:
    config = AllocationConfig(policy=policy, pilot_fraction=0.1, audit_fraction=0.1)
    table = make(PAPER, 1000, seed=5)
    order = np.random.default_rng(0).permutation(1000)
    one, other = (replay(config, each, np.ones(10), seed=1) for each in (table, table.rows(order)))
    assert (one.decision.counts[order] == other.decision.counts).mean() > 0.9999
    assert max(one.loads) == 2


def test_waves_keep_99_percent_of_the_gain_for_half_of_the_tokens() -> None:
    table = make(PAPER, 10_000, seed=1)
    result = replay(AllocationConfig(), table, np.ones(10), seed=7)
    assert result.whole.gain_share.value >= 0.99
    assert result.whole.token_share <= 0.5
    assert result.loads == (2,) * 10
    assert result.decision.summary["expected_cost_share"] == pytest.approx(result.whole.cost_share, abs=0.02)
    rest = slices_of(table.prompt_ids, 0.04, 0.02, 7).rest
    true = audit(table.rows(rest), result.decision.counts[rest], np.ones(10), 0, 2)
    assert result.audit.gain_share.low <= true.gain_share.value <= result.audit.gain_share.high


def test_a_rare_specialist_is_found_where_it_is_needed() -> None:
    regime = BY_NAME["rare specialist"]
    table = make(regime, 6000, seed=1)
    result = replay(AllocationConfig(), table, np.array(regime.costs), seed=7)
    of_last = table.rewards[:, -1].max(axis=1) > np.delete(table.rewards, 9, axis=1).max(axis=(1, 2))
    assert 0.01 < of_last.mean() < 0.04
    assert result.decision.counts[of_last, -1].mean() > 2.5
    assert result.decision.counts[~of_last, -1].mean() < 1.3


def test_sources_that_are_all_alike_are_told_as_such() -> None:
    regime = BY_NAME["equal sources, noise alone"]
    table = make(regime, 6000, seed=1)
    result = replay(AllocationConfig(), table, np.ones(10), seed=7)
    assert result.whole.gain_share.value >= 0.985
    assert any("little is saved" in sentence for sentence in findings(result.decision, result.audit, 0.99))
    bounded = replay(AllocationConfig(max_cost_share=0.5), table, np.ones(10), seed=7)
    assert bounded.whole.cost_share == pytest.approx(0.5, abs=0.02)
    assert not bounded.decision.summary["target_reached"]
    assert target_kept(bounded.audit, 0.99) == "no"
    assert any("was asked for" in sentence for sentence in findings(bounded.decision, bounded.audit, 0.99))
