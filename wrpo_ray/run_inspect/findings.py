"""What a check of a run can find, and what it hands on."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from wrpo_ray.run_state import Contents, Damage, PlannedStep, RunState

Kind = Literal[
    "manifest", "plan", "commit", "file", "quarantine", "checkpoint", "made_from", "submission", "broken_source"
]
_SHARD_FILE = re.compile(r"data/(shard-\d{6,}-[0-9a-f]{16})-[0-9a-f]{16}\.parquet")
_SHARD_NAME = re.compile(r"shard-(\d{6,})-[0-9a-f]{16}")


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it was written.

    path: URI. expected, found: SHA-256, where there are any. shard: the shard whose result it spoils. affected: which
    rows that are, for the reader.
    """

    kind: Kind
    path: str
    reason: str
    code: str
    expected: str | None = None
    found: str | None = None
    shard: str | None = None
    affected: str = ""

    @property
    def damage(self) -> Damage:
        return Damage(self.path, self.reason, self.code)


@dataclass(frozen=True)
class StepReport:
    """One step, checked: what was verified, what is wrong (findings), what is odd (warnings)."""

    step: PlannedStep
    contents: Contents
    findings: tuple[Finding, ...]
    warnings: tuple[str, ...]
    num_files: int
    num_bytes: int


@dataclass(frozen=True)
class RunReport:
    """A run, checked. findings: of the records that belong to no step. temporaries: files that nobody finished."""

    state: RunState
    steps: tuple[StepReport, ...]
    findings: tuple[Finding, ...]
    warnings: tuple[str, ...]
    temporaries: tuple[str, ...] = field(default=())

    @property
    def reused_findings(self) -> tuple[Finding, ...]:
        """Findings in steps that are read from other runs; those runs have to be repaired, not this one."""
        return tuple(finding for report in self.steps if report.step.run for finding in report.findings)

    @property
    def every_finding(self) -> tuple[Finding, ...]:
        """All findings, the run's own records first."""
        return (*self.findings, *(finding for report in self.steps for finding in report.findings))


def shard_of_file(path: str) -> str | None:
    """Return the shard that a file below data/ is an attempt of."""
    match = _SHARD_FILE.fullmatch(path)
    return match[1] if match else None


def shard_number(name: str) -> int | None:
    """Return the number in a shard's name."""
    match = _SHARD_NAME.fullmatch(name)
    return int(match[1]) if match else None
