"""The plan of rows: complete, repeatable, the same rows however they are spread."""

import pytest
import torch

from wrpo_ray.batching import BatchSizes, cut_response, epoch_order, num_steps_per_epoch, pad_sequences, plan_step
from wrpo_ray.packing import padded_fit


def test_epoch_order_is_a_permutation_that_depends_on_seed_and_epoch_alone():
    assert sorted(epoch_order(20, 1, 0)) == list(range(20))
    assert epoch_order(20, 1, 0) == epoch_order(20, 1, 0)
    assert len({tuple(epoch_order(20, seed, epoch)) for seed in (1, 2) for epoch in (0, 1)}) == 4
    # Fixed for good: another value here means that resumed runs see other rows than they would have.
    assert epoch_order(6, 42, 0) == [2, 0, 1, 3, 5, 4]


def real_rows(plan):
    return [
        row
        for micros in plan.ranks
        for micro in micros
        for row, weight in zip(micro.rows, micro.weights, strict=True)
        if weight
    ]


ROW_TOKENS = [3 + 7 * row % 11 for row in range(21)]


@pytest.mark.parametrize(
    "sizes", [BatchSizes(8, 999, 1), BatchSizes(8, 20, 1), BatchSizes(8, 20, 2), BatchSizes(8, 1, 4)]
)
def test_each_row_of_the_global_batch_is_seen_once_and_ranks_do_equally_much(sizes):
    order = epoch_order(21, 0, 0)
    assert num_steps_per_epoch(21, 8) == 3
    plans = [plan_step(step, order, sizes, ROW_TOKENS) for step in range(3)]
    assert [len(plan.rows) for plan in plans] == [8, 8, 5]
    assert [row for plan in plans for row in plan.rows] == order
    for plan in plans:
        assert sorted(real_rows(plan)) == sorted(plan.rows)
        assert len(plan.ranks) == sizes.num_workers
        assert len({len(micros) for micros in plan.ranks}) == 1
        for micro in (micro for micros in plan.ranks for micro in micros):
            assert len(micro.rows) == 1 or sum(ROW_TOKENS[row] for row in micro.rows) <= sizes.micro_batch_tokens


def test_a_rank_without_rows_takes_a_weightless_repeat_of_the_shortest():
    first, second = plan_step(0, [5, 3, 9], BatchSizes(8, 10, 2), {5: 10, 3: 4, 9: 10}).ranks
    assert [(micro.rows, micro.weights) for micro in first] == [((5,), (1.0,)), ((3,), (0.0,))]
    assert [(micro.rows, micro.weights) for micro in second] == [((9,), (1.0,)), ((3,), (1.0,))]


def test_rows_of_a_step_are_put_together_as_they_are_told():
    (micros,) = plan_step(0, [0, 1, 2], BatchSizes(3, 10, 1), [8, 2, 8], fit=padded_fit).ranks
    assert [micro.rows for micro in micros] == [(0,), (2,), (1,)]
    (micros,) = plan_step(0, [0, 1, 2], BatchSizes(3, 10, 1), [8, 2, 8]).ranks
    assert [micro.rows for micro in micros] == [(0, 1), (2,)]


def test_sequences_are_padded_on_the_right():
    batch = pad_sequences([[1, 2], [3]], [[4], [5, 6, 7]], pad_token_id=9)
    assert batch.input_ids.tolist() == [[1, 2, 4, 9], [3, 5, 6, 7]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert batch.response_mask.tolist() == [[False, False, True, False], [False, True, True, True]]
    assert batch.input_ids.dtype == torch.int64


def test_a_long_response_loses_its_end():
    assert cut_response(3, [1, 2, 3, 4], 5) == [1, 2]
    assert cut_response(3, [1, 2], 5) == [1, 2]
