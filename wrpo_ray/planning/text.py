"""The plan as text for a terminal, and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from wrpo_ray.planning.accelerators import CPU
from wrpo_ray.planning.fit import GB
from wrpo_ray.planning.gantt import gantt_text
from wrpo_ray.planning.plan import PlannedStage, RunPlan
from wrpo_ray.planning.stage import Stage
from wrpo_ray.planning.units import columns, money, short, span

_HEADING = (
    "step", "accelerators", "responses", "tokens in", "tokens out", "FLOP", "GPU-hours", "CPU-hours", "wall time",
    "price", "sequences", "bound by",
)  # fmt: skip


def plan_text(plan: RunPlan) -> str:
    """Return the whole plan."""
    blocks = [
        f"plan of run {plan.run}",
        "\n".join(["assumptions:", *(f"  {line}" for line in assumptions(plan))]),
        columns([_HEADING, *(_row(stage, plan.currency) for stage in plan.stages)]),
        "\n".join(totals(plan)),
        columns([("memory of one accelerator", "on", "needed GB", "usable GB", ""), *_memory(plan)]),
        gantt_text(plan),
    ]
    return "\n\n".join(block for block in blocks if block)


def assumptions(plan: RunPlan) -> Iterator[str]:
    """Yield what the figures rest on, one sentence each."""
    yield from plan.lengths.origins
    yield "cluster: " + ", ".join(f"{count:g} {name}" for name, count in plan.cluster.items())
    table = [place for place, origin in plan.shape_origins.items() if origin != "its config.json"]
    if table:
        yield f"shapes from {plan.shape_origins[table[0]]}: {', '.join(table)}"
    hours = {stage.stage.job.accelerator for stage in plan.stages if stage.price is None and not stage.stage.endpoint}
    if hours:
        yield f"no price in prices.per_hour for {', '.join(sorted(hours))}"
    tokens = [stage.stage.endpoint for stage in plan.stages if stage.price is None and stage.stage.endpoint]
    if tokens:
        yield f"no price in prices.per_million_tokens for {', '.join(tokens)}"


def _row(planned: PlannedStage, currency: str) -> tuple[str, ...]:
    stage = planned.stage
    most = max(len(planned.placements), 1)
    return (
        stage.step,
        f"{most} x {stage.job.gpus_per_replica:g} {stage.job.accelerator}",
        short(stage.responses),
        short(stage.input_tokens),
        short(stage.output_tokens),
        short(stage.flops),
        "" if stage.job.accelerator == CPU else f"{planned.gpu_hours:.2f}",
        f"{planned.cpu_hours:.2f}" if stage.job.accelerator == CPU else "",
        span(planned.seconds),
        money(planned.price, currency),
        _side_by_side(stage),
        stage.bound,
    )


def _side_by_side(stage: Stage) -> str:
    """Return the sequences that are decoded together, and how many the cache would hold: max_num_seqs may be low."""
    if stage.batch is None:
        return ""
    return f"{stage.batch:.0f}" if stage.capacity is None else f"{stage.batch:.0f} of {stage.capacity:,.0f}"


def totals(plan: RunPlan) -> Iterator[str]:
    """Yield the sums of the run."""
    hours = {"GPU": sum(stage.gpu_hours for stage in plan.stages), "CPU": sum(s.cpu_hours for s in plan.stages)}
    held = ", ".join(f"{count:,.1f} {unit}-hours" for unit, count in hours.items() if count)
    price = f", {money(plan.price, plan.currency)}" if plan.price is not None else ""
    yield f"held: {held}{price}"
    busy = ", ".join(f"{share:.0%} of {name}" for name, share in plan.busy_share.items())
    cluster = plan.cluster_price
    whole = f"; the whole cluster for that time: {money(cluster, plan.currency)}" if cluster is not None else ""
    yield f"done after {span(plan.seconds)}, busy {busy}{whole}"
    yield "the end waits for: " + ", ".join(f"{s.stage.step} {span(s.seconds)}" for s in plan.longest_chain())


def _memory(plan: RunPlan) -> list[tuple[str, ...]]:
    fits = {(stage.stage.fit.place, stage.stage.fit.needed): stage for stage in plan.stages if stage.stage.fit}
    rows = []
    for stage in fits.values():
        fit = stage.stage.fit
        assert fit is not None
        usable = "" if fit.available is None else f"{fit.available / GB:.1f}"
        verdict = "not looked at" if fit.available is None else "fits" if fit.fits else "DOES NOT FIT"
        name = fit.place if stage.stage.kind != "reference" else f"{fit.place} (reference)"
        rows.append((name, fit.accelerator, f"{fit.needed / GB:.1f}", usable, verdict))
    return rows


def plan_json(plan: RunPlan) -> dict[str, Any]:
    """Return the plan as JSON values: SI units, seconds and bytes."""
    return {
        "run": plan.run,
        "assumptions": list(assumptions(plan)),
        "cluster": dict(plan.cluster),
        "seconds": plan.seconds,
        "gpu_hours": sum(stage.gpu_hours for stage in plan.stages),
        "cpu_hours": sum(stage.cpu_hours for stage in plan.stages),
        "currency": plan.currency,
        "price": plan.price,
        "cluster_price": plan.cluster_price,
        "stages": [stage_json(stage) for stage in plan.stages],
    }


def stage_json(planned: PlannedStage) -> dict[str, Any]:
    """Return one stage as JSON values."""
    stage, fit = planned.stage, planned.stage.fit
    return {
        "step": stage.step,
        "kind": stage.kind,
        "accelerator": stage.job.accelerator,
        "start_s": planned.start_s,
        "seconds": planned.seconds,
        "replicas": len(planned.placements),
        "gpus_per_replica": stage.job.gpus_per_replica,
        "gpu_hours": planned.gpu_hours,
        "cpu_hours": planned.cpu_hours,
        "price": planned.price,
        "responses": stage.responses,
        "input_tokens": stage.input_tokens,
        "output_tokens": stage.output_tokens,
        "flops": stage.flops,
        "bound": stage.bound,
        "batch": stage.batch,
        "batch_capacity": stage.capacity,
        "memory": None if fit is None else {"parts": dict(fit.parts), "usable": fit.available, "reason": fit.reason},
        "endpoint": stage.endpoint,
        "job": dataclasses.asdict(stage.job),
    }
