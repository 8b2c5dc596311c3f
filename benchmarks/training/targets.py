"""What the training step is meant to reach, and whether it did. Nothing fails on it: times depend on the machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from benchmarks.training.variants import OURS, PADDED, TRL, TRL_CACHED

Record = dict[str, Any]
LARGEST_FLOPS_OVER_LIMIT = 1.03
FEWER_FLOPS = {"uf": 2.4, "long": 3.4}
LESS_CPU = {"uf": 2.0, "long": 3.0}
LARGEST_MEMORY = {PADDED.name: 1 / 3, TRL.name: 1 / 2, TRL_CACHED.name: 1 / 2}
# "Flat in vocabulary": from 32k on, where the fixed budgets for logits are full, the step may need so much more.
LARGEST_GROWTH, FLAT_FROM = 1.25, 32000
LEAST_MFU = 0.45


class Target(NamedTuple):
    """One line of the verdict; `met` is None when nothing was measured for it."""

    what: str
    wanted: str
    measured: str
    met: bool | None

    def __str__(self) -> str:
        verdict = {True: "met", False: "missed", None: "not measured"}[self.met]
        return f"{verdict:12} {self.what}: {self.measured} (wanted: {self.wanted})"


def at_most(what: str, value: float, bound: float) -> Target:
    """Return a target with an upper bound."""
    return Target(what, f"at most {bound:.2f}", f"{value:.2f}", value <= bound)


def at_least(what: str, value: float, bound: float) -> Target:
    """Return a target with a lower bound."""
    return Target(what, f"at least {bound:.2f}", f"{value:.2f}", value >= bound)


def main_targets(records: Sequence[Record]) -> list[Target]:
    """Return the targets of one case: records with equal workload and model, one for each variant."""
    by_name = {record["variant"]: record for record in records}
    ours, padded = by_name[OURS.name], by_name[PADDED.name]
    workload, where = ours["workload"], f"{ours['workload']}, {ours['model']}"
    targets = [
        at_most(f"{where}: GEMM FLOPs / 6N(P+3R)", ours["flops_over_limit"], LARGEST_FLOPS_OVER_LIMIT),
        at_least(
            f"{where}: GEMM FLOPs of (1) / ours", padded["gemm_flops"] / ours["gemm_flops"], FEWER_FLOPS[workload]
        ),
        at_least(f"{where}: CPU time of (1) / ours", padded["cpu_s"] / ours["cpu_s"], LESS_CPU[workload]),
    ]
    for name in (TRL.name, TRL_CACHED.name):
        if other := by_name.get(name):
            share = ours["cpu_s_per_response"] / other["cpu_s_per_response"]
            targets.append(at_most(f"{where}: CPU time per response, ours / {name}", share, 1.0))
    if ours["model"] == "32k":
        targets += _memory_targets(where, ours, by_name)
    return targets


def _memory_targets(where: str, ours: Record, by_name: dict[str, Record]) -> Iterator[Target]:
    for name, bound in LARGEST_MEMORY.items():
        if other := by_name.get(name):
            for field, what in (
                ("step_mib", "above weights, gradients, Adam"),
                ("training_mib", "above the bare model"),
            ):
                yield at_most(f"{where}: memory {what}, ours / {name}", ours[field] / other[field], bound)


def flat_in_vocabulary(records: Sequence[Record]) -> list[Target]:
    """Return the target on how memory grows with the vocabulary: records of all variants over vocabulary sizes."""
    ours = {record["vocabulary"]: record["step_mib"] for record in without_head_gradient(records)}
    sizes = [size for size in ours if size >= FLAT_FROM]
    if len(sizes) < 2:
        return []
    smallest, largest = min(sizes), max(sizes)
    what = f"memory above weights, gradients (the head's twice), Adam at vocabulary {largest} / at {smallest}"
    return [at_most(what, ours[largest] / ours[smallest], LARGEST_GROWTH)]


def without_head_gradient(records: Sequence[Record]) -> list[Record]:
    """Return our records over vocabulary sizes less the head's gradient, which autograd makes before it is added up.

    It is as large as the head's weights, whatever computes it.
    """
    return [
        {**record, "variant": f"{OURS.name}, less one gradient of the head",
         "step_mib": record["step_mib"] - record["head_gradient_mib"]}
        for record in records if record["variant"] == OURS.name
    ]  # fmt: skip


def gpu_targets(records: Sequence[Record]) -> list[Target]:
    """Return the target on MFU; not measured without a GPU of the table."""
    found = [record["mfu"] for record in records if record["variant"].startswith(OURS.name) and record.get("mfu")]
    if not found:
        return [Target("8B-shaped model on a GPU: MFU", f"at least {LEAST_MFU:.0%}", "no H100 or H200 at hand", None)]
    best = max(found)
    return [Target("8B-shaped model on a GPU: MFU", f"at least {LEAST_MFU:.0%}", f"{best:.1%}", best >= LEAST_MFU)]
