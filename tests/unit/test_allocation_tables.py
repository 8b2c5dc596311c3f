"""Tables, slices and shares of gain."""

from __future__ import annotations

import numpy as np
import pytest

from wrpo_ray.allocation.audit import audit, choice
from wrpo_ray.allocation.gain import first_samples, full_grid
from wrpo_ray.allocation.prompt_ids import PromptIds
from wrpo_ray.allocation.slices import slices_of
from wrpo_ray.allocation.table import RewardTable, TableBuilder
from wrpo_ray.errors import ConfigError, DataError


def table(rewards: list, present: list | None = None) -> RewardTable:
    """Return a table that is drawn in full, one token per response."""
    values = np.array(rewards, dtype=float)
    there = np.ones(values.shape, dtype=bool) if present is None else np.array(present, dtype=bool)
    ids = tuple(f"p{number:03d}" for number in range(len(values)))
    names = tuple("abcdef"[: values.shape[1]])
    ones = np.ones(values.shape)
    values = np.where(there, values, 0.0)
    return RewardTable(ids, names, (values.shape[2],) * len(names), values, ones.astype(int), ones > 0, there)


def test_responses_in_any_order_make_one_table_and_missing_rewards_stay_missing() -> None:
    rows = [("p", "b", 1, 7), ("p", "a", 0, 3), ("o", "b", 0, 0)]
    tables = []
    for order in (rows, rows[::-1]):
        builder = TableBuilder(PromptIds.of_groups([["p", "o"], ["n"]]), ["a", "b"], [1, 2])
        for row in order:
            builder.response(*row)
        builder.reward("p", "b", 1, -2.5)
        builder.reward("o", "b", 0, 1.0)
        tables.append(builder.table())
    made, other = tables
    assert tuple(made.prompt_ids) == ("n", "o", "p")
    assert made.drawn.sum() == 3
    assert made.present.sum() == 2
    assert made.rewards[2, 1, 1] == -2.5
    assert made.tokens.sum() == 7 + 3 + 1
    assert made.best().tolist() == [-np.inf, 1.0, -2.5]
    assert (made.rewards == other.rewards).all()


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (("p", "a", 0), "twice"),
        (("x", "a", 0), "does not have"),
        (("p", "x", 0), "does not have"),
        (("p", "a", 1), "outside of 0 .. 0"),
        (("p", "b", -1), "outside of 0 .. 1"),
    ],
)
def test_responses_that_have_no_place_are_refused(row: tuple[str, str, int], said: str) -> None:
    builder = TableBuilder(PromptIds.of_groups([["p"]]), ["a", "b"], [1, 2])
    builder.response("p", "a", 0, 1)
    with pytest.raises(DataError, match=said):
        builder.response(*row, 1)


def test_rewards_belong_to_responses_and_are_finite() -> None:
    builder = TableBuilder(PromptIds.of_groups([["p"]]), ["a", "b"], [1, 2])
    with pytest.raises(DataError, match="not drawn"):
        builder.reward("p", "b", 0, 1.0)
    builder.response("p", "b", 0, 1)
    builder.reward("p", "b", 0, float("nan"))
    with pytest.raises(DataError, match="two rewards"):
        builder.reward("p", "b", 0, 1.0)
    with pytest.raises(DataError, match="not finite"):
        builder.table()


def test_slices_follow_from_prompt_ids_and_seed_alone() -> None:
    ids = [f"{number:x}" for number in range(4000)]
    slices = slices_of(ids, 0.05, 0.03, seed=1)
    assert not (slices.pilot & slices.audit).any()
    assert 150 < slices.pilot.sum() < 250
    assert 85 < slices.audit.sum() < 155
    backwards = slices_of(ids[::-1], 0.05, 0.03, seed=1)
    assert (backwards.pilot[::-1] == slices.pilot).all()
    # Half of the prompts: those that stay keep their slice.
    assert (slices_of(ids[:2000], 0.05, 0.03, seed=1).audit == slices.audit[:2000]).all()
    assert (slices_of(ids, 0.05, 0.03, seed=2).pilot != slices.pilot).any()


def test_a_slice_of_a_few_prompts_is_refused() -> None:
    with pytest.raises(ConfigError, match="audit_fraction gives"):
        slices_of([str(number) for number in range(500)], 0.2, 0.01, seed=1)


def test_the_share_of_the_gain_does_not_depend_on_where_rewards_have_their_zero() -> None:
    plain = np.random.default_rng(0).normal(size=(50, 3, 2))
    shares = []
    for rewards in (plain, 10 * plain - 1000):
        grid, own = full_grid(table(rewards)), table(rewards).masked(np.arange(2) < np.ones((50, 3, 1)))
        shares.append(grid.share(grid.regret(own.best())))
    assert shares[0] == pytest.approx(shares[1])
    assert 0 < shares[0] < 1
    grid = full_grid(table(plain))
    assert grid.share(grid.best - grid.random) == pytest.approx(0.0)
    assert grid.share(0 * grid.best) == 1.0


def test_few_prompts_are_not_enough_to_be_sure_of_the_target() -> None:
    generator = np.random.default_rng(0)
    many = full_grid(table(generator.normal(size=(4000, 3, 2))))
    few = full_grid(table(generator.normal(size=(25, 3, 2))))
    for grid, sure in ((many, True), (few, False)):
        regret = np.where(np.arange(len(grid.best)) % 25 == 0, 0.2, 0.0)
        assert grid.share(regret) > 0.99
        assert grid.keeps(regret, 0.99) is sure
        assert not grid.keeps(regret + 0.02, 0.99)


def test_the_audit_counts_by_hand() -> None:
    rewards = [
        [[1.0, 5.0], [2.0, 2.0]],  # the best one is the second sample: lost, another source wins
        [[3.0, 4.0], [0.0, 0.0]],  # lost, but the same source wins
        [[1.0, 1.0], [1.0, 1.0]],  # ties: the source that is listed first, its first sample
        [[0.0, 0.0], [7.0, 0.0]],
        [[0.0, 0.0], [0.0, 0.0]],  # no reward at all: not counted
    ]
    present = np.ones((5, 2, 2), dtype=bool)
    present[4] = False
    found = audit(table(rewards, present), np.ones((5, 2), dtype=int), np.array([1.0, 3.0]), seed=0)
    assert found.num_prompts == 4
    assert (found.same_response.value, found.same_source.value, found.same_reward.value) == (0.5, 0.75, 0.5)
    assert found.regret.value == (3 + 1 + 0 + 0) / 4
    gain = (5 - 2.5) + (4 - 1.75) + 0 + (7 - 1.75)
    assert found.gain_share.value == pytest.approx(1 - 4 / gain)
    assert (found.token_share, found.cost_share) == (0.5, 0.5)
    assert found.regret.low <= found.regret.value <= found.regret.high


def test_a_choice_without_any_reward_counts_as_a_random_response() -> None:
    present = [[[False, True], [False, True]]]
    made = table([[[9.0, 1.0], [9.0, 3.0]]], present)
    own = made.masked(first_samples(made, np.ones((1, 2), dtype=int)))
    assert choice(own).tolist() == [-1]
    assert full_grid(made).regret(own.best()).tolist() == [1.0]
    found = audit(made, np.ones((1, 2), dtype=int), np.ones(2), seed=0)
    assert (found.same_response.value, found.same_source.value) == (0.0, 0.0)


def test_the_bootstrap_interval_has_the_width_of_the_standard_error() -> None:
    generator = np.random.default_rng(1)
    rewards = generator.normal(size=(900, 2, 2))
    made = table(rewards)
    found = audit(made, np.ones((900, 2), dtype=int), np.ones(2), seed=0)
    grid = full_grid(made)
    regret = grid.regret(made.masked(first_samples(made, np.ones((900, 2), dtype=int))).best())
    error = regret.std() / 30
    assert (found.regret.high - found.regret.low) / (2 * 1.96 * error) == pytest.approx(1.0, abs=0.1)
