"""The schedule as a picture: bars of text, or SVG."""

from __future__ import annotations

import html
from collections.abc import Iterator

from wrpo_ray.planning.plan import PlannedStage, RunPlan
from wrpo_ray.planning.units import span

_TEXT_WIDTH = 64
# From "a few of its replicas" to "all of them".
_SHADES = "░▒▓█"
_COLOURS = {"sampling": "#4477aa", "scoring": "#228833", "training": "#cc6677", "reference": "#aa7733"}
_LEFT, _WIDTH, _ROW, _TOP = 240, 900, 24, 34


def gantt_text(plan: RunPlan) -> str:
    """Return one line per step; the darker, the larger the share of its replicas that is at work."""
    if plan.seconds <= 0:
        return ""
    name_width = max(len(stage.stage.step) for stage in plan.stages)
    lines = [f"{'':{name_width}}  0{span(plan.seconds):>{_TEXT_WIDTH - 1}}"]
    for stage in sorted(plan.stages, key=lambda stage: stage.start_s):
        bar = "".join(_cell(plan, stage, number) for number in range(_TEXT_WIDTH)).rstrip()
        lines.append(f"{stage.stage.step:{name_width}}  {bar}")
    return "\n".join(lines)


def _cell(plan: RunPlan, stage: PlannedStage, number: int) -> str:
    """Return the shade of one cell: a step that is shorter than a cell still shows."""
    start_s, end_s = (plan.seconds * edge / _TEXT_WIDTH for edge in (number, number + 1))
    if stage.end_s <= start_s or stage.start_s >= end_s:
        return " "
    at_work = sum(placement.start_s < end_s and placement.end_s > start_s for placement in stage.placements)
    share = at_work / max(stage.stage.job.max_replicas, len(stage.placements))
    return _SHADES[min(len(_SHADES) - 1, int(share * len(_SHADES)))]


def gantt_svg(plan: RunPlan) -> str:
    """Return an SVG picture: a row per step, as high as the accelerators that it holds; whole replicas as boxes."""
    height = _TOP + _ROW * len(plan.stages) + 16
    rows = enumerate(sorted(plan.stages, key=lambda stage: stage.start_s))
    body = [line for number, stage in rows for line in _svg_row(plan, stage, _TOP + _ROW * number)]
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_LEFT + _WIDTH + 20} {height}"'
        ' font-family="sans-serif" font-size="12">',
        f"<title>Plan of run {html.escape(plan.run)}</title>",
        *_svg_axis(plan, height),
        *body,
        "</svg>",
        "",
    ])  # fmt: skip


def _svg_axis(plan: RunPlan, height: int) -> Iterator[str]:
    for tenth in range(0, 11, 2):
        x = _LEFT + _WIDTH * tenth / 10
        yield f'<line x1="{x:.1f}" y1="{_TOP - 8}" x2="{x:.1f}" y2="{height - 10}" stroke="#dddddd"/>'
        label = span(plan.seconds * tenth / 10) if tenth else "0"
        yield f'<text x="{x:.1f}" y="{_TOP - 14}" text-anchor="middle" fill="#555555">{label}</text>'


def _svg_row(plan: RunPlan, planned: PlannedStage, y: float) -> Iterator[str]:
    job, kind = planned.stage.job, planned.stage.kind
    yield f'<text x="{_LEFT - 8}" y="{y + 16:.1f}" text-anchor="end">{html.escape(job.name)}</text>'
    room = _ROW - 4
    held = max(len(planned.placements) * job.gpus_per_replica, plan.cluster.get(job.accelerator, 0.0), 1e-9)
    lane = room * job.gpus_per_replica / held
    for number, placement in enumerate(planned.placements):
        x = _LEFT + _WIDTH * placement.start_s / plan.seconds
        width = max(0.5, _WIDTH * (placement.end_s - placement.start_s) / plan.seconds)
        top = y + 2 + room - lane * (number + 1)
        told = f"{job.name}: replica {number + 1} of {len(planned.placements)}, {job.gpus_per_replica:g}"
        told += f" {job.accelerator}, {span(placement.start_s)} to {span(placement.end_s)}"
        yield (
            f'<rect x="{x:.1f}" y="{top:.1f}" width="{width:.1f}" height="{max(lane, 1.0):.1f}"'
            f' fill="{_COLOURS[kind]}" stroke="#ffffff" stroke-width="0.5"><title>{html.escape(told)}</title></rect>'
        )


def gantt_html(plan: RunPlan, text: str) -> str:
    """Return a page with the picture and the text of the plan."""
    title = f"Plan of run {html.escape(plan.run)}"
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title></head>\n'
        f"<body>\n{gantt_svg(plan)}<pre>{html.escape(text)}</pre>\n</body></html>\n"
    )
