"""Variants of one case, step by step in turn; and the numbers that are kept of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

from benchmarks.training.cases import Case
from benchmarks.training.shapes import flop_limit
from benchmarks.training.variants import Variant, Worker
from benchmarks.training.workloads import num_responses, unique_tokens

Costs = dict[str, Any]
# Gradients are held from the first such round on, so the first one is not counted.
HOLDING_ROUNDS = 3


class Rounds(NamedTuple):
    """Costs of one variant: [round][batch] of timed steps, of steps that hold gradients; [batch] of the first steps."""

    first: list[Costs]
    timed: list[list[Costs]]
    holding: list[list[Costs]]
    profile: Costs | None = None


def measure(
    case: Case, variants: Sequence[Variant], rounds: int, threads: int, say: Callable[[str], None], *,
    memory: bool = True, profile: bool = False,
) -> tuple[list[dict[str, Any]], dict[str, dict[str, str]]]:  # fmt: skip
    """Run the variants of one case by turns; return one record for each, and the versions each ran with.

    rounds: timed passes over all batches, after a first one that warms up and counts FLOPs.
    """
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(variant, case, threads)) for variant in variants]
        versions = {worker.variant.name: worker.versions() for worker in workers}
        count_flops = case.device == "cpu"
        first = _round(workers, count_flops=count_flops)
        timed = [_round(workers) for _ in range(rounds)]
        holding = [_round(workers, hold_gradients=True) for _ in range(HOLDING_ROUNDS if memory else 0)]
        profiles = _round(workers, profile=True) if profile else None
    records = []
    for number, variant in enumerate(variants):
        found = Rounds(
            first[number], [each[number] for each in timed], [each[number] for each in holding[1:]],
            profiles[number][0]["profile"] if profiles else None,
        )  # fmt: skip
        records.append(summarize(case, variant, found))
        say(f"  {variant.name}: {records[-1]['cpu_s']:.2f} CPU s, {records[-1]['wall_s']:.2f} s")
    return records, versions


def _round(workers: Sequence[Worker], **options: bool) -> list[list[Costs]]:
    """Return [worker][batch]: every batch is taken by all workers in turn before the next one."""
    num_batches = len(workers[0].case.batches)
    costs: list[list[Costs]] = [[] for _ in workers]
    for batch in range(num_batches):
        for worker, own in zip(workers, costs, strict=True):
            own.append(worker.step(batch, **options))
    return costs


def summarize(case: Case, variant: Variant, rounds: Rounds) -> dict[str, Any]:
    """Return a variant's record: of every batch the least over all rounds, then the mean over batches.

    step_mib: the largest batch's peak above weights, gradients and optimizer state. training_mib: the peak of all that
    was done above the bare policy model, a reference model included.
    """
    batches = [variant.trained_part(batch) for batch in case.batches]
    responses = sum(map(num_responses, batches)) / len(batches)
    tokens = sum(map(unique_tokens, batches)) / len(batches)
    wall_s, cpu_s = (_mean_of_least(rounds.timed, name) for name in ("wall_s", "cpu_s"))
    record: dict[str, Any] = {
        **case.fields, "variant": variant.name, "responses": responses, "unique_tokens": tokens,
        "wall_s": wall_s, "cpu_s": cpu_s, "cpu_s_per_response": cpu_s / responses,
        "backward_wall_s": _mean_of_least(rounds.timed, "backward_wall_s"), "unique_tokens_per_s": tokens / wall_s,
        "quadruples_per_s": None if variant.program == "trl" else len(batches[0]) / wall_s,
        "training_mib": rounds.timed[-1][-1]["training_mib"], "step_mib": None, "profile": rounds.profile,
        "flop_limit": flop_limit(case.shape, 1) * tokens, "gemm_flops": None, "flops_over_limit": None,
        "by_batch": [_of_batch(rounds, number, num_responses(batch)) for number, batch in enumerate(batches)],
    }  # fmt: skip
    if "gemm_flops" in rounds.first[0]:
        record["gemm_flops"] = sum(costs["gemm_flops"] for costs in rounds.first) / len(batches)
        record["flops_over_limit"] = record["gemm_flops"] / record["flop_limit"]
    if rounds.holding:
        record["step_mib"] = max(_least(rounds.holding, number, "step_mib") for number in range(len(batches)))
    return record


def _least(rounds: list[list[Costs]], batch: int, name: str) -> float:
    return min(each[batch][name] for each in rounds)


def _mean_of_least(rounds: list[list[Costs]], name: str) -> float:
    num_batches = len(rounds[0])
    return sum(_least(rounds, batch, name) for batch in range(num_batches)) / num_batches


def _of_batch(rounds: Rounds, batch: int, responses: int) -> dict[str, Any]:
    """Return what is kept of one batch: the least of each cost, and FLOPs, whole and for each response."""
    kept = {name: _least(rounds.timed, batch, name) for name in ("wall_s", "cpu_s")}
    kept |= {name: value for name, value in rounds.first[batch].items() if name.endswith("_flops")}
    return {
        "responses": responses,
        **kept,
        **{f"{name}_per_response": value / responses for name, value in kept.items()},
    }
