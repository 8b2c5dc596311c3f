"""What one WRPO step costs: ours, the published method's, and TRL's DPO, side by side and by turns.

Prints one set of tables and writes one JSON file. `make bench-train`, or:
    python -m benchmarks.train_step [--quick] [--device cuda --layers 8] [--without-trl]

Every variant runs in a process of its own; they take the same batches in turn, and the least cost over all rounds
counts, because other programs can only add to it. A step is forward, backward and optimizer (fused AdamW) on two
quadruples of random token ids; making a batch is part of it (not for TRL, whose loop collates beforehand).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.training import check, plan, tables, targets
from benchmarks.training.measure import measure
from benchmarks.training.shapes import mfu, peak_flops
from benchmarks.training.variants import REPOSITORY, TRL, TRL_CACHED, missing_python

RESULTS = REPOSITORY / "benchmarks" / "results"
NOTES = """\
step MiB: the step's peak above weights, gradients and optimizer state (gradients held, as when micro-batches add up).
training MiB: the peak of everything above the bare policy model: gradients, optimizer state, a reference model.
limit: 6 N (P + 3R), N without the input embedding. FLOPs of matrix products with weights; attention is not in them.
TRL trains on the pairs (y_wt, y_l): two responses of three. Times: least over rounds, mean over batches."""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_step", description="Cost of one WRPO step.")
    parser.add_argument("--quick", action="store_true", help="two minutes: fewer cases and rounds")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--layers", type=int, default=8, help="layers of the 8B-shaped model on a GPU (of 32)")
    parser.add_argument("--rounds", type=int, default=5, help="timed passes over the batches of the main table")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--without-trl", action="store_true")
    parser.add_argument("--profile", action="store_true", help="also tell what the time of one step goes to")
    parser.add_argument("--out", type=Path, help="JSON file (default: benchmarks/results/train_step[_MODE].json)")
    return parser.parse_args(arguments)


def planned(options: argparse.Namespace) -> list[plan.Measurement]:
    """Return the measurements that were asked for."""
    if options.device == "cuda":
        chosen = list(plan.gpu_plan(options.layers, options.rounds))
    else:
        chosen = list(plan.quick_plan() if options.quick else plan.full_plan(options.rounds))
    if not options.without_trl:
        return chosen
    left_out = (TRL, TRL_CACHED)
    return [item._replace(variants=tuple(v for v in item.variants if v not in left_out)) for item in chosen]


def say(message: str) -> None:
    """Tell how far it is; the tables alone go to stdout."""
    print(message, file=sys.stderr, flush=True)


def check_all(measurements: Iterable[plan.Measurement]) -> list[dict[str, Any]]:
    """Return the errors of loss and gradient of all main cases, or of one where there are none (on a GPU).

    Stops the program where one is too large.
    """
    errors = []
    for case in [item.case for item in measurements if item.table == "main"] or [plan.main_case("uf", "2k")]:
        error = check.relative_errors(case)
        errors.append({**case.fields, **error})
        say(f"{case.fields}: relative error of the loss {error['loss']:.1e}, of the gradient {error['gradient']:.1e}")
        if max(error["loss"], error["gradient"]) > check.LARGEST_ERROR:
            sys.exit(f"error: ours and the padded step differ by more than {check.LARGEST_ERROR}; nothing was measured")
    return errors


def run(
    measurements: list[plan.Measurement], threads: int, profile: bool
) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """Return the records of each table, and the versions of each variant; on a GPU always with a profile."""
    found: dict[str, list[Any]] = {}
    versions: dict[str, Any] = {}
    for number, item in enumerate(measurements, start=1):
        say(f"[{number}/{len(measurements)}] {item.table} {item.case.fields or ''}")
        gpu = item.case.device == "cuda"
        # By turns on a CPU, which other programs use too; one after the other on a GPU, which has no room for all.
        for variants in [(variant,) for variant in item.variants] if gpu else [item.variants]:
            records, own = measure(
                item.case, variants, item.rounds, threads, say, memory=item.memory, profile=profile or gpu
            )
            versions.update(own)
            found.setdefault(item.table, []).extend(with_mfu(records) if gpu else records)
    return found, versions


def with_mfu(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add MFU and the share of matrix products to records of a GPU."""
    peak = peak_flops(torch.cuda.get_device_name())
    for record in records:
        record["gemm_share"] = record["profile"]["gemm_share"]
        for name, seconds in (("mfu", record["wall_s"]), ("mfu_backward", record["backward_wall_s"])):
            record[name] = mfu(record["flop_limit"], seconds, peak) if peak else None
    return records


def by_batch(records: list[dict[str, Any]], over: str, values: Iterable[int]) -> list[dict[str, Any]]:
    """Return a record for each batch of a growth case: batch number i has the i-th value."""
    return [
        {"variant": record["variant"], over: value, **batch}
        for record in records
        for value, batch in zip(values, record["by_batch"], strict=True)
    ]


def report(found: dict[str, list[Any]]) -> str:
    """Return all tables."""
    parts = []
    if main_records := found.get("main"):
        parts += [tables.sections(main_records, ("workload", "model"), tables.COSTS), NOTES]
        parts += [tables.shares(record) for record in main_records if record["profile"]]
    for over, values in (("prompt tokens", plan.PROMPT_LENGTHS), ("responses per prompt", plan.RESPONSE_COUNTS)):
        if records := found.get(over):
            rows = by_batch(records, over, values)
            flops = tables.growth(rows, over, "gemm_flops_per_response", 2, 1e-9)
            cpu = tables.growth(rows, over, "cpu_s_per_response", 0, 1e3)
            parts += [f"### GEMM GFLOP per response\n\n{flops}", f"### CPU ms per response\n\n{cpu}"]
    if records := found.get("vocabulary"):
        rows = [*records, *targets.without_head_gradient(records)]
        parts.append("### step MiB over vocabulary\n\n" + tables.growth(rows, "vocabulary", "step_mib", 0))
    if records := found.get("gpu"):
        parts.append(tables.sections(records, ("model",), tables.GPU_COSTS))
    return "\n\n".join(parts)


def verdict(found: dict[str, list[Any]]) -> list[targets.Target]:
    """Return all targets with what was measured."""
    cases: dict[tuple[str, str], list[Any]] = {}
    for record in found.get("main", []):
        cases.setdefault((record["workload"], record["model"]), []).append(record)
    lines = [target for records in cases.values() for target in targets.main_targets(records)]
    return [
        *lines,
        *targets.flat_in_vocabulary(found.get("vocabulary", [])),
        *targets.gpu_targets(found.get("gpu", [])),
    ]


def facts(threads: int) -> dict[str, Any]:
    """Return what the figures depend on besides the code."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"), "cpu": cpu_model(), "cpus": os.cpu_count(),
        "gpu": gpu, "threads": threads, "python": platform.python_version(),
    }  # fmt: skip


def cpu_model() -> str:
    """Return the processor's name as Linux gives it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def main() -> None:
    options = parse()
    measurements = planned(options)
    if problem := missing_python([variant for item in measurements for variant in item.variants]):
        sys.exit(problem)
    began, load = time.monotonic(), os.getloadavg()
    torch.set_num_threads(options.threads)
    errors = check_all(measurements)
    found, versions = run(measurements, options.threads, options.profile)
    lines = verdict(found)
    print(report(found), "", *lines, sep="\n")
    mode = "_gpu" if options.device == "cuda" else "_quick" if options.quick else ""
    out = options.out or RESULTS / f"train_step{mode}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    loads = {"load_before": load, "load_after": os.getloadavg(), "seconds": round(time.monotonic() - began)}
    content = {
        **facts(options.threads), **loads, "versions": versions, "errors_against_padded": errors,
        "tables": found, "targets": [target._asdict() for target in lines],
    }  # fmt: skip
    out.write_text(json.dumps(content, indent=1) + "\n")
    say(f"{out} written")


if __name__ == "__main__":
    main()
