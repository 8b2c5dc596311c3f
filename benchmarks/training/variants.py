"""The variants that are measured side by side, and the processes that run them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from benchmarks.training.cases import Case
from benchmarks.training.workloads import Batch

REPOSITORY = Path(__file__).resolve().parents[2]
TRL_PYTHON = REPOSITORY / ".venv-trl" / "bin" / "python"
_LOG_LINES = 15
# Threads that wait sleep instead of spinning: otherwise a machine that is busy with other programs counts up to ten
# times the CPU seconds for the same work. Nothing is fetched from a hub.
_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


@dataclass(frozen=True)
class Variant:
    """What runs: `program` as worker.py knows it, with its options."""

    name: str
    program: str
    options: dict[str, Any] = field(default_factory=dict)

    def trained_part(self, batch: Batch) -> Batch:
        """Return what of the batch this variant trains on: TRL knows pairs only."""
        if self.program != "trl":
            return batch
        return [row._replace(responses=row.responses[-2:]) for row in batch]


PADDED = Variant("(1) padded, live reference, full logits", "padded")
TRL = Variant("(2) TRL DPOTrainer", "trl", {"cached_reference": False})
TRL_CACHED = Variant("(2) TRL, precomputed reference", "trl", {"cached_reference": True})
OURS = Variant("(3) ours", "ours")
SWITCHED_OFF = (
    Variant("ours, live reference", "ours", {"live_reference": True}),
    Variant("ours, padded", "ours", {"padded": True}),
    Variant("ours, full logits", "ours", {"full_logits": True}),
    Variant("ours, unpacked", "ours", {"unpacked": True}),
)
OURS_KERNELS = tuple(Variant(f"(3) ours, {kernel}", "ours", {"kernel": kernel}) for kernel in ("varlen", "flex"))


class WorkerError(RuntimeError):
    """A worker ended without an answer; the message has the end of its log."""


class Worker:
    """A variant in a process of its own; close it, or use it in a `with` statement."""

    def __init__(self, variant: Variant, case: Case, threads: int) -> None:
        self.variant = variant
        self.case = case
        self._log: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115 (lives as long as the process)
        python = str(TRL_PYTHON) if variant.program == "trl" else sys.executable
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.training.worker"],
            cwd=REPOSITORY, env={**os.environ, **_ENVIRONMENT}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log,
        )  # fmt: skip
        start = {"program": variant.program, "options": variant.options, "case": case.to_json(), "threads": threads}
        self._send(start)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def versions(self) -> dict[str, str]:
        """Return the versions in the worker's environment: its first answer."""
        return self._answer()["versions"]

    def step(
        self, batch: int, count_flops: bool = False, hold_gradients: bool = False, profile: bool = False
    ) -> dict[str, Any]:
        """Let the worker take one step and return what it cost.

        Raises WorkerError when the worker ended instead.
        """
        self._send({"batch": batch, "count_flops": count_flops, "hold_gradients": hold_gradients, "profile": profile})
        return self._answer()

    def close(self) -> None:
        """End the process: it leaves when its input ends."""
        if self._process.stdin:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def _send(self, command: dict[str, Any]) -> None:
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self._ended() from error

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        return json.loads(line)

    def _ended(self) -> WorkerError:
        code = self._process.wait()
        self._log.seek(0)
        end = "".join(self._log.readlines()[-_LOG_LINES:])
        return WorkerError(f"the worker of {self.variant.name!r} ended with code {code}:\n{end}")


def missing_python(variants: Sequence[Variant]) -> str | None:
    """Return what to do when TRL's environment is needed and not there."""
    if any(variant.program == "trl" for variant in variants) and not TRL_PYTHON.exists():
        return f"error: {TRL_PYTHON.relative_to(REPOSITORY)} is missing; run `make bench-train`, or add --without-trl"
    return None
