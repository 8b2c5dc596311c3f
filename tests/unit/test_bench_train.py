"""The arithmetic of benchmarks/train_step.py: workloads, limits, tables, verdicts. Nothing is trained here."""

import json
import random
import statistics

import pytest
import torch

from benchmarks.training import padded, profile, shapes, tables, targets, workloads
from benchmarks.training.cases import Case, margin_loss, response_weights
from benchmarks.training.measure import Rounds, summarize
from benchmarks.training.meter import Meter
from benchmarks.training.variants import OURS, PADDED, TRL
from benchmarks.training.workloads import Row


def test_lengths_have_the_mean_and_the_spread_that_are_asked_for():
    lengths = workloads.spread_lengths(180, 1000, random.Random(0))

    assert statistics.mean(lengths) == pytest.approx(180, abs=0.5)
    assert statistics.stdev(lengths) / 180 == pytest.approx(0.416, abs=0.02)  # sqrt(exp(0.4 ** 2) - 1)
    assert lengths != sorted(lengths)


def test_padding_is_what_the_comment_on_spread_says():
    def padding(name):
        batches = workloads.make_batches(workloads.WORKLOADS[name], 50, num_batches=150, rows_per_batch=2)
        sequences = [[len(p) + len(r) for p, r in padded.sequences(batch)] for batch in batches]
        return sum(max(own) * len(own) for own in sequences) / sum(map(sum, sequences))

    assert padding("uf") == pytest.approx(1.40, abs=0.03)
    assert padding("long") == pytest.approx(1.27, abs=0.03)


def test_batches_repeat_for_a_seed_and_end_with_eos():
    workload = workloads.WORKLOADS["uf"]
    batches = workloads.make_batches(workload, 50, num_batches=2, rows_per_batch=2, seed=3)

    assert batches == workloads.make_batches(workload, 50, num_batches=2, rows_per_batch=2, seed=3)
    assert batches != workloads.make_batches(workload, 50, num_batches=2, rows_per_batch=2, seed=4)
    responses = [response for batch in batches for row in batch for response in row.responses]
    assert len(responses) == 12
    assert all(response[-1] == workloads.EOS_ID for response in responses)
    assert all(2 <= token < 50 for response in responses for token in response[:-1])


def test_unique_tokens_count_a_prompt_once():
    batch = [Row([5, 6, 7], [[5, 1], [5, 6, 1]]), Row([5], [[1]])]

    assert workloads.unique_tokens(batch) == 3 + 2 + 3 + 1 + 1
    assert workloads.num_responses(batch) == 3


@pytest.mark.parametrize("name", ["2k", "32k"])
def test_gemm_parameters_are_those_of_the_model_without_embedding_and_norms(name):
    from benchmarks.training.cases import make_model

    with torch.device("meta"):
        model = make_model(Case(shapes.SHAPES[name], [], device="meta"))
    expected = sum(p.numel() for n, p in model.named_parameters() if p.dim() == 2 and "embed_tokens" not in n)

    assert shapes.SHAPES[name].gemm_parameters == expected
    assert shapes.flop_limit(shapes.SHAPES[name], 10) == 60 * expected


def test_the_small_model_has_the_head_share_of_an_8b_model():
    def share(shape):
        return shape.head_parameters / shape.gemm_parameters

    assert share(shapes.SHAPES["2k"]) == pytest.approx(share(shapes.llama_8b(32)), abs=0.02)


def test_mfu_and_peaks():
    assert shapes.peak_flops("NVIDIA H200") == 989e12
    assert shapes.peak_flops("NVIDIA A100-SXM4-80GB") == 312e12
    assert shapes.peak_flops("Some other GPU") is None
    assert shapes.mfu(flops=989e12, seconds=2.0, peak=989e12) == 0.5


def test_padding_stacks_responses_and_by_row_undoes_it():
    batch = [Row([5, 6], [[7, 1], [8, 9, 1]]), Row([4], [[1]])]
    ids, mask, labels = padded.pad(batch, "cpu")

    assert ids.tolist() == [[5, 6, 7, 1, 0], [4, 1, 0, 0, 0], [5, 6, 8, 9, 1]]
    assert mask.sum(1).tolist() == [4, 2, 5]
    assert labels.tolist() == [[-100, -100, 7, 1, -100], [-100, 1, -100, -100, -100], [-100, -100, 8, 9, 1]]
    assert padded.by_row(batch) == [0, 2, 1]


def test_margin_of_three_responses_is_the_one_of_wrpo():
    from benchmarks.training.ours import preference_loss

    logps, reference = torch.tensor([-10.0, -20.0, -30.0, -5.0, -6.0, -90.0]), torch.zeros(6)
    rows = [Row([2], [[1], [1], [1]])] * 2

    assert response_weights(3) == [0.1, 0.9, -1.0]
    assert sum(response_weights(5)) == pytest.approx(0.0)
    torch.testing.assert_close(margin_loss(logps, reference, [3, 3]), preference_loss(logps, reference, rows))


def test_the_meter_counts_products_in_place_and_attention_on_a_cpu():
    left, right, total = torch.ones(3, 4), torch.ones(4, 5), torch.zeros(3, 5)
    query, key = torch.ones(1, 2, 7, 8, requires_grad=True), torch.ones(1, 2, 9, 8, requires_grad=True)
    meter = Meter("cpu")
    meter.mark_bare()
    meter.start(count_flops=True)
    total.addmm_(left @ right @ torch.ones(5, 5), torch.ones(5, 5))
    torch.nn.functional.scaled_dot_product_attention(query, key, key).sum().backward()
    costs = meter.finish()

    assert costs["gemm_flops"] == 2 * (3 * 4 * 5 + 3 * 5 * 5 + 3 * 5 * 5)
    forward = 2 * (1 * 2 * 7) * 9 * (8 + 8)
    assert costs["other_flops"] == forward + 2.5 * forward


def test_the_meter_sees_memory_that_is_gone_again():
    meter = Meter("cpu")
    meter.mark_bare()
    meter.start(count_flops=False)
    torch.ones(2**24).sum()
    costs = meter.finish()

    assert costs["step_mib"] == pytest.approx(64, abs=16)
    assert costs["training_mib"] == pytest.approx(64, abs=16)


def costs(wall_s, cpu_s, step_mib=0.0, training_mib=0.0, **more):
    return {
        "wall_s": wall_s, "cpu_s": cpu_s, "backward_wall_s": wall_s, "step_mib": step_mib, "training_mib": training_mib,
        **more,
    }  # fmt: skip


def test_a_record_has_the_least_over_rounds_and_the_mean_over_batches():
    row = Row([2, 3], [[1], [1], [4, 1]])
    case = Case(shapes.SHAPES["2k"], [[row], [row]], fields={"workload": "uf"})
    limit = shapes.flop_limit(case.shape, 6)
    first = [costs(9, 9, gemm_flops=limit, other_flops=0), costs(9, 9, gemm_flops=2 * limit, other_flops=0)]
    timed = [[costs(1.0, 4.0), costs(3.0, 5.0)], [costs(2.0, 2.0), costs(1.0, 6.0, training_mib=70.0)]]
    holding = [[costs(0, 0, 10.0), costs(0, 0, 50.0)], [costs(0, 0, 30.0), costs(0, 0, 40.0)]]

    record = summarize(case, OURS, Rounds(first, timed, holding))
    assert (record["wall_s"], record["cpu_s"]) == (1.0, 3.5)
    assert record["flops_over_limit"] == pytest.approx(1.5)
    assert (record["step_mib"], record["training_mib"]) == (40.0, 70.0)
    assert (record["responses"], record["unique_tokens_per_s"], record["quadruples_per_s"]) == (3, 6.0, 1.0)
    assert record["by_batch"][1]["gemm_flops_per_response"] == pytest.approx(2 * limit / 3)

    pairs = summarize(case, TRL, Rounds(first, timed, holding))
    assert (pairs["responses"], pairs["unique_tokens"], pairs["quadruples_per_s"]) == (2, 5, None)


def record(variant, **fields):
    usual = {"workload": "uf", "model": "32k", "flops_over_limit": 1.0, "gemm_flops": 10.0, "cpu_s": 1.0,
             "cpu_s_per_response": 0.1, "step_mib": 100.0, "training_mib": 100.0}  # fmt: skip
    return {"variant": variant.name, **usual, **fields}


def test_targets_tell_what_was_met():
    found = targets.main_targets(
        [
            record(PADDED, gemm_flops=23.0, cpu_s=2.5, step_mib=301.0, training_mib=250.0),
            record(TRL, cpu_s_per_response=0.05, step_mib=200.0, training_mib=150.0),
            record(OURS),
        ]
    )

    assert [target.met for target in found] == [True, False, True, False, True, False, True, False]
    assert str(found[1]) == "missed       uf, 32k: GEMM FLOPs of (1) / ours: 2.30 (wanted: at least 2.40)"
    assert targets.gpu_targets([])[0].met is None
    assert targets.gpu_targets([{"variant": OURS.name, "mfu": 0.46}])[0].met


def test_memory_over_vocabulary():
    def over(at_32k, at_128k):
        ours = {2048: (1.0, 2.0), 32000: (at_32k, 30.0), 128256: (at_128k, 125.0)}
        rows = [
            record(OURS, vocabulary=size, step_mib=mib, head_gradient_mib=head) for size, (mib, head) in ours.items()
        ]
        return targets.flat_in_vocabulary([*rows, record(PADDED, vocabulary=128256, step_mib=1e6)])

    assert [target.met for target in over(130.0, 245.0)] == [True]
    assert [target.met for target in over(130.0, 255.0)] == [False]
    assert targets.flat_in_vocabulary([]) == []


def test_tables_are_aligned_and_show_what_is_missing():
    columns = [("variant", tables.text("variant")), ("MiB", tables.number("mib", 1, 2.0))]
    lines = tables.table([{"variant": "a", "mib": 600.0}, {"variant": "bcd", "mib": None}], columns).splitlines()

    assert lines == [
        "| variant |     MiB |",
        "| ------- | ------: |",
        "| a       | 1,200.0 |",
        "| bcd     |       - |",
    ]


def test_growth_has_a_column_for_each_value():
    rows = [{"variant": name, "n": n, "cost": n * scale} for name, scale in (("a", 1), ("b", 2)) for n in (8, 16)]

    assert tables.growth(rows, "n", "cost", 0).splitlines() == [
        "| n |  8 | 16 |", "| - | -: | -: |", "| a |  8 | 16 |", "| b | 16 | 32 |"
    ]  # fmt: skip


def test_share_of_matrix_products():
    times = [
        ("nvjet_tst_128x256", 50.0), ("sm90_xmma_gemm_bf16", 10.0), ("flash_fwd_kernel", 20.0),
        ("void cutlass::flash_attention", 5.0), ("elementwise", 15.0),
    ]  # fmt: skip
    found = profile.shares(times)

    assert found["gemm_share"] == pytest.approx(0.6)
    assert found["top"][0] == ["nvjet_tst_128x256", 0.5]
    with pytest.raises(ValueError, match="no time"):
        profile.shares([])


def test_a_case_survives_its_journey_to_a_worker():
    case = Case(shapes.SHAPES["2k"], [[Row([5], [[1]])]], fields={"model": "2k"})

    assert Case.from_json(json.loads(json.dumps(case.to_json()))) == case
