"""One variant in a process of its own: a case and then commands as JSON lines on stdin, answers on stdout.

A process of its own has memory of its own to measure, and may live in another Python environment.
`python -m benchmarks.training.worker`
"""

from __future__ import annotations

import json
import os
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TextIO

import torch

from benchmarks.training import profile
from benchmarks.training.cases import Case, make_model
from benchmarks.training.meter import Meter

_PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "wrpo-ray")


class Channel:
    """JSON lines to and from the benchmark; whatever libraries print goes to stderr instead."""

    def __init__(self) -> None:
        self._answers: TextIO = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)

    def receive(self) -> dict[str, Any] | None:
        """Return the next command; None when the benchmark has no more."""
        line = sys.stdin.readline()
        return json.loads(line) if line else None

    def send(self, answer: dict[str, Any]) -> None:
        self._answers.write(json.dumps(answer) + "\n")


class Measured:
    """Answers each command, which asks for one step, with what that step cost."""

    def __init__(self, channel: Channel, meter: Meter, num_batches: int) -> None:
        self.channel = channel
        self.meter = meter
        self.num_batches = num_batches
        self.steps = 0
        self.hold_gradients = False
        self._profiler: Any = None

    @property
    def batch(self) -> int:
        """Number of the batch whose turn it is."""
        return self.steps % self.num_batches

    def before(self) -> bool:
        """Wait for a command and begin to measure; False when there are no more steps to take.

        Raises ValueError when the batch that is asked for is not the next one: batches come in turn.
        """
        command = self.channel.receive()
        if command is None:
            return False
        if command["batch"] != self.batch:
            raise ValueError(f"batch {command['batch']} was asked for when it was the turn of {self.batch}")
        self.hold_gradients = command["hold_gradients"]
        self._profiler = profile.start(self.meter.cuda) if command["profile"] else None
        self.meter.start(command["count_flops"])
        return True

    def lap(self) -> None:
        """Note the end of forward and backward."""
        self.meter.lap()

    def after(self) -> None:
        """Answer with the costs."""
        costs: dict[str, Any] = dict(self.meter.finish())
        if self._profiler is not None:
            costs["profile"] = profile.finish(self._profiler, self.meter.cuda)
        self.steps += 1
        self.channel.send(costs)


def versions() -> dict[str, str]:
    """Return the versions of the packages that matter, as far as they are installed."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def run_own(variant: Any, measured: Measured) -> None:
    """Take steps with a variant of ours."""
    measured.meter.mark_bare()
    variant.prepare()
    while measured.before():
        variant.step(measured.batch, measured.hold_gradients, measured.lap)
        measured.after()


def run_trl(case: Case, cached_reference: bool, measured: Measured) -> None:
    """Take steps with TRL; its loop frees gradients after each step, unless it is told to hold them."""
    from benchmarks.training import trl_steps

    model = make_model(case)
    measured.meter.mark_bare()
    free = model.zero_grad

    def zero_grad(set_to_none: bool = True) -> None:
        free(set_to_none=set_to_none and not measured.hold_gradients)

    model.zero_grad = zero_grad
    trl_steps.train(case, model, cached_reference, measured)


def main() -> None:
    channel = Channel()
    start = channel.receive()
    if start is None:
        return
    torch.set_num_threads(start["threads"])
    channel.send({"versions": versions()})
    case, options = Case.from_json(start["case"]), start["options"]
    measured = Measured(channel, Meter(case.device), len(case.batches))
    match start["program"]:
        case "trl":
            run_trl(case, options["cached_reference"], measured)
        case "padded":
            from benchmarks.training.padded import Padded

            run_own(Padded(case), measured)
        case "ours":
            from benchmarks.training.ours import Options, Ours

            run_own(Ours(case, Options(**options)), measured)


if __name__ == "__main__":
    main()
