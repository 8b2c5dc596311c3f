"""What a check found, as text for a terminal and as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import Any

from wrpo_ray.run_inspect.findings import Finding, RunReport, StepReport
from wrpo_ray.run_inspect.repair import Removal
from wrpo_ray.run_state import StepState
from wrpo_ray.run_status import counted_noun, table

_MAX_SHOWN = 50


def render(report: RunReport, details: bool) -> str:
    """Return the report as text. details: show identity, inputs, summary, files and quarantine of its steps."""
    number = report.state.submission.number if report.state.submission else None
    head = f"run {report.state.folder}" + ("" if number is None else f", as start {number} planned it")
    states = {state.name: state for state in report.state.steps}
    blocks = [head, table([("step", "fingerprint", "state", "checked", "verdict"), *_rows(report, states)])]
    if details:
        blocks += [_details(checked, states[checked.step.name]) for checked in report.steps]
    if report.every_finding:
        blocks.append("\n".join(["damaged:", *(_finding(finding) for finding in report.every_finding)]))
    blocks.append(_warnings(report))
    return "\n\n".join(block for block in blocks if block)


def _rows(report: RunReport, states: dict[str, StepState]) -> Iterator[tuple[str, ...]]:
    for checked in report.steps:
        count = len(checked.findings)
        yield (
            checked.step.name,
            checked.step.fingerprint,
            states[checked.step.name].phase + (f" (in run {checked.step.run})" if checked.step.run else ""),
            f"{counted_noun(checked.num_files, 'file')}, {size(checked.num_bytes)}" if checked.num_files else "",
            f"{count} damaged" if count else ("whole" if checked.num_files else ""),
        )


def _finding(finding: Finding) -> str:
    lines = [f"  {finding.path}", f"    {finding.reason}"]
    if finding.expected or finding.found:
        lines += [f"    sha256 written {finding.expected or '-'}", f"    sha256 found   {finding.found or '-'}"]
    if finding.affected:
        lines.append(f"    affects {finding.affected}")
    return "\n".join(lines)


def _warnings(report: RunReport) -> str:
    lines = [*report.warnings, *(f"{path}: left by a writer that did not finish" for path in report.temporaries)]
    lines += [f"{checked.step.name}: {warning}" for checked in report.steps for warning in checked.warnings]
    if not lines:
        return ""
    more = [f"  and {len(lines) - _MAX_SHOWN} more"] if len(lines) > _MAX_SHOWN else []
    return "\n".join(["ignored:", *(f"  {line}" for line in lines[:_MAX_SHOWN]), *more])


def _details(checked: StepReport, state: StepState) -> str:
    manifest = checked.contents.manifest
    lines = [f"step {checked.step.name}", f"  folder  {checked.contents.folder}"]
    if manifest is None:
        lines.append(f"  inputs  {', '.join(checked.step.inputs) or 'none'}")
    else:
        lines += ["  inputs", *(f"    {name} {fingerprint}" for name, fingerprint in manifest.inputs.items())]
        lines += ["  identity", *_indented(manifest.identity), "  summary", *_indented(manifest.summary)]
        files = [("file", "rows", "bytes", "sha256")]
        files += [
            (entry.path, "" if entry.num_rows is None else f"{entry.num_rows:,}", f"{entry.num_bytes:,}", entry.sha256)
            for entry in manifest.files
        ]
        lines += ["  files", *(f"    {line}" for line in table(files).splitlines())]
    if state.quarantined:
        lines.append("  quarantine")
        lines += [f"    {count:,} {code}  {state.quarantine_files[code]}" for code, count in state.quarantined.items()]
    return "\n".join(lines)


def _indented(value: Any) -> list[str]:
    return [f"    {line}" for line in json.dumps(value, indent=2, ensure_ascii=False).splitlines()]


def as_json(report: RunReport, removed: Sequence[Removal]) -> str:
    """Return the report as JSON."""
    states = {state.name: state for state in report.state.steps}
    told = {
        "run": report.state.folder,
        "whole": not report.every_finding,
        "steps": [
            {
                "name": checked.step.name,
                "fingerprint": checked.step.fingerprint,
                "state": states[checked.step.name].phase,
                "run": checked.step.run,
                "num_files": checked.num_files,
                "num_bytes": checked.num_bytes,
                "manifest": dataclasses.asdict(checked.contents.manifest) if checked.contents.manifest else None,
                "findings": [dataclasses.asdict(finding) for finding in checked.findings],
                "warnings": checked.warnings,
            }
            for checked in report.steps
        ],
        "findings": [dataclasses.asdict(finding) for finding in report.findings],
        "warnings": report.warnings,
        "temporaries": report.temporaries,
        "removed": [{"path": str(each.place), "why": each.why} for each in removed],
    }
    return json.dumps(told, indent=2, ensure_ascii=False, default=str)


def size(num_bytes: int) -> str:
    """Return a number of bytes in a unit that reads well."""
    amount = float(num_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:,.3g} TB"
