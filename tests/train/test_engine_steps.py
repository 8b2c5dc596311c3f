"""ZeRO 0 to 3, offload and ZeRO++ on two ranks, with numbers of micro-batches that change, against plain torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.train import plain, two_ranks
from wrpo_ray.packing import PackedBatch, pack_groups
from wrpo_ray.policy import Policy
from wrpo_ray.train.compiled import compile_blocks

EXACT: dict[str, dict[str, Any]] = {
    "zero-0": {"zero_stage": 0},
    "zero-1": {"zero_stage": 1},
    "zero-2": {"zero_stage": 2},
    "zero-3": {"zero_stage": 3},
    "zero-1-offload": {"zero_stage": 1, "offload": "optimizer"},
    "zero-2-offload": {"zero_stage": 2, "offload": "optimizer"},
    "zero-3-offload": {"zero_stage": 3, "offload": "optimizer"},
    "zero-3-offload-all": {"zero_stage": 3, "offload": "optimizer_and_parameters"},
    # The last one: DeepSpeed makes its groups once in a process.
    "zero-3-hpz": {"zero_stage": 3, "zero_hpz_partition_size": 2},
}
BFLOAT16 = {
    f"{name}-bf16": {**EXACT[name], "precision": "bf16"}
    for name in ("zero-2", "zero-2-offload", "zero-3", "zero-3-offload-all")
}
Outcome = tuple[dict[str, Any], Callable[[str], dict[str, torch.Tensor]]]


@pytest.fixture(scope="module")
def outcome(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """What each case found on each rank, and the weights that it ended with: all in one pair of processes."""
    folder = tmp_path_factory.mktemp("cases")
    found = two_ranks.run_cases(folder, model, {**BFLOAT16, **EXACT})
    return found, lambda case: torch.load(folder / f"{case}.pt")


@pytest.fixture(scope="module")
def plain_outcome(model: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    return two_ranks.plain_run(model, two_ranks.section())


@pytest.mark.parametrize("case", EXACT)
def test_steps_of_three_one_and_two_micro_batches_are_those_of_plain_torch(outcome, plain_outcome, case) -> None:
    (found, weights_of), (expected, weights) = outcome, plain_outcome
    for of_rank in found[case]:
        assert of_rank["losses"] == pytest.approx(expected["losses"], rel=1e-6)
        assert of_rank["norms"] == pytest.approx(expected["norms"], rel=2e-6)
    state = weights_of(case)
    assert state.keys() == weights.keys()
    for name, tensor in state.items():
        torch.testing.assert_close(tensor, weights[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("zero_stage", [2, 3])
def test_offload_changes_nothing_in_bfloat16(outcome, plain_outcome, zero_stage) -> None:
    found, weights_of = outcome
    kept, moved = f"zero-{zero_stage}-bf16", f"zero-{zero_stage}-offload{'-all' if zero_stage == 3 else ''}-bf16"
    assert found[moved][0]["losses"] == pytest.approx(found[kept][0]["losses"], rel=1e-3)
    assert found[moved][0]["losses"] == pytest.approx(plain_outcome[0]["losses"], rel=1e-2)
    for name, tensor in weights_of(moved).items():
        torch.testing.assert_close(tensor, weights_of(kept)[name], rtol=1e-2, atol=1e-3)


def test_what_was_asked_for_is_in_use(outcome) -> None:
    """ZeRO 3 loads half of the model on each of two ranks; hpZ keeps a second copy of what is gathered."""
    found, _ = outcome
    whole = found["zero-2"][0]["num_elements"]
    for case, ranks in found.items():
        held = [of_rank["num_elements"] for of_rank in ranks]
        assert held == ([whole // 2] * 2 if "zero-3" in case else [whole] * 2), case
        assert (ranks[0]["num_copies"] > 0) == ("hpz" in case), case


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [0, 3])
def test_a_compiled_model_takes_the_same_steps(model, plain_outcome, zero_stage, tmp_path) -> None:
    found = two_ranks.run_cases(tmp_path, model, {"compiled": {"zero_stage": zero_stage, "compile": True}})["compiled"]
    assert found[0]["num_graphs"] > 0
    assert found[0]["losses"] == pytest.approx(plain_outcome[0]["losses"], rel=1e-6)
    assert found[0]["norms"] == pytest.approx(plain_outcome[0]["norms"], rel=2e-6)


@pytest.mark.slow
def test_one_program_serves_all_blocks_and_packed_batches(model) -> None:
    def gradient(policy: Policy, batch: PackedBatch) -> torch.Tensor:
        policy.zero_grad()
        policy(batch).sum().backward()
        return torch.cat([each.grad.flatten() for each in policy.parameters() if each.grad is not None])

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled, eager = (Policy(plain.load(model), share_prompts=True) for _ in range(2))
    assert compile_blocks(compiled) == 2
    graphs = []
    for size in range(3, 9):
        prompts = [list(range(5, 5 + size + number)) for number in range(1 + size % 3)]
        batch = pack_groups(prompts, [[[9] * size, [8] * (size + 3), [7] * 2] for _ in prompts])
        expected = gradient(eager, batch)
        assert (gradient(compiled, batch) - expected).norm() < 1e-5 * expected.norm()
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert graphs[0] > 0
    assert graphs[-1] == graphs[1], graphs
