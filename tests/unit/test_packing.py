"""Rows with shared prompts, bins of rows, and bins over ranks."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wrpo_ray.packing import best_fit, pack_groups, padded_fit, spread_over_ranks


def test_two_groups_stand_one_after_another():
    batch = pack_groups([[1, 2], [3]], [[[4], [5, 6, 7]], [[8, 9]]])
    assert batch.input_ids.tolist() == [1, 2, 4, 5, 6, 7, 3, 8, 9]
    # Every response begins where its prompt ends.
    assert batch.position_ids.tolist() == [0, 1, 2, 2, 3, 4, 0, 1, 2]
    # 4 and 5 come after 2, the prompt's last token, at index 1; 6 after 5, 8 after 3.
    assert batch.predicting.tolist() == [1, 1, 3, 4, 6, 7]
    assert batch.targets.tolist() == [4, 5, 6, 7, 8, 9]
    assert batch.sequence_of.tolist() == [0, 1, 1, 1, 2, 2]
    assert batch.num_response_tokens.tolist() == [1, 3, 2]
    assert batch.num_sequences == 3
    assert batch.layout.segment_lengths == [2, 1, 3, 1, 2]


def test_an_empty_response_has_no_tokens_and_still_counts():
    batch = pack_groups([[1], [2]], [[[], [3]], [[4]]])
    assert batch.num_response_tokens.tolist() == [0, 1, 1]
    assert batch.sequence_of.tolist() == [1, 2]


def test_an_empty_prompt_is_refused():
    with pytest.raises(ValueError, match="a prompt has no tokens"):
        pack_groups([[1], []], [[[2]], [[3]]])


def test_best_fit_fills_the_fullest_bin_that_has_room():
    assert best_fit([6, 5, 4, 3], 10) == [[0, 2], [1, 3]]
    # 3 goes beside 7, where nothing is left over, not beside 5.
    assert best_fit([7, 5, 3], 10) == [[0, 2], [1]]
    assert best_fit([12, 1], 10) == [[0], [1]]
    assert best_fit([], 10) == []


def test_padded_bins_count_their_longest_row_for_each():
    assert padded_fit([5, 2, 5, 2], 10) == [[0, 2], [1, 3]]
    assert padded_fit([12, 4, 4, 4], 10) == [[0], [1, 2], [3]]


LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=40)


@given(LENGTHS, st.integers(1, 60), st.sampled_from([best_fit, padded_fit]))
@settings(max_examples=200, deadline=None)
def test_each_row_is_in_one_bin_and_no_bin_is_over_its_budget(lengths, budget, fit):
    bins = fit(lengths, budget)
    assert sorted(row for rows in bins for row in rows) == list(range(len(lengths)))
    for rows in bins:
        sizes = [lengths[row] for row in rows]
        used = sum(sizes) if fit is best_fit else max(sizes) * len(sizes)
        assert used <= budget or len(rows) == 1
    if fit is best_fit:
        # No two bins could be one: the packing wastes less than half of any two.
        totals = sorted(sum(lengths[row] for row in rows) for rows in bins)
        assert len(totals) < 2 or totals[0] + totals[1] > budget


@given(LENGTHS, st.integers(1, 60), st.integers(1, 5))
@settings(max_examples=200, deadline=None)
def test_ranks_get_equally_many_bins_and_each_row_goes_to_one(lengths, budget, num_ranks):
    spread = spread_over_ranks(best_fit(lengths, budget), lengths, num_ranks)
    assert len(spread) == num_ranks
    assert len({len(bins) for bins in spread}) == 1
    rows = sorted(row for bins in spread for rows in bins for row in rows)
    assert rows == list(range(len(lengths)))
    all_bins = [rows for bins in spread for rows in bins]
    if not all(all_bins):
        # Only where there was no more bin to split, and fewer of them than ranks.
        assert max(map(len, all_bins)) == 1
        assert all_bins.count([]) < num_ranks
    for bins in spread:
        for rows_of_bin in bins:
            assert sum(lengths[row] for row in rows_of_bin) <= budget or len(rows_of_bin) == 1


def test_ranks_that_wait_for_one_another_have_about_equally_much():
    lengths = [100, 90, 50, 40, 30, 20, 10, 5]
    (first, second) = spread_over_ranks([[0], [1], [2, 3], [4, 5], [6], [7]], lengths, 2)
    assert [sum(lengths[row] for row in rows) for rows in first] == [100, 50, 10]
    assert [sum(lengths[row] for row in rows) for rows in second] == [90, 90, 5]


def test_the_fullest_bin_is_split_for_the_last_rank():
    assert spread_over_ranks([[0, 1, 2]], [3, 2, 1], 2) == [[[0]], [[1, 2]]]
    assert spread_over_ranks([[0]], [3], 2) == [[[0]], [[]]]
