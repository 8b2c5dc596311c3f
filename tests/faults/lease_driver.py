"""A driver process for test_lease: the small run on a local disk, under a real lease, with work that takes time.

python -m tests.faults.lease_driver FOLDER NAME TIMEOUT_S SHARD_S [elsewhere]

It waits for the file `go` in FOLDER, appends `<name> <what>` to `generated` there for every shard that it generates,
and exits as the command line does: 0, or the error's own code with its message on stderr. `elsewhere` makes it a driver
on another machine, as far as its lease says.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.faults.small_run import RUN, Engines, small_steps
from wrpo_ray.errors import WrpoError
from wrpo_ray.interrupts import interruptible, stop
from wrpo_ray.steps import execute
from wrpo_ray.storage import owner
from wrpo_ray.storage.lease import held
from wrpo_ray.storage.location import locate
from wrpo_ray.storage.manifest import RunLayout


@dataclass
class SlowEngines(Engines):
    """Engines that take their time, once per shard, and never answer as another process would."""

    root: Path = Path()
    name: str = ""
    shard_s: float = 0.0
    last: str = ""

    def text(self, model: str, prompt_id: str, sample: int) -> str:
        what = next(reversed(self.shards))
        if what != self.last:
            self.last = what
            with (self.root / "generated").open("a", encoding="utf-8") as stream:
                stream.write(f"{self.name} {what}\n")
            time.sleep(self.shard_s)
        return f"{self.name} {model} {prompt_id} {sample} {os.getpid()}"


def main() -> int:
    root, name, timeout_s, shard_s = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), float(sys.argv[4])
    if "elsewhere" in sys.argv:
        owner._boot_id = lambda: f"the boot of {name}"
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    (root / f"ready-{name}").touch()
    while not (root / "go").exists():
        time.sleep(0.01)
    layout = RunLayout(locate(root / RUN))
    engines = SlowEngines(start=os.getpid(), root=root, name=name, shard_s=shard_s)
    try:
        with interruptible(), held(layout.leases, timeout_s, on_lost=stop) as lease:
            for step in small_steps(layout, engines):
                execute(step, layout, {}, lease.check)
    except WrpoError as error:
        print(f"error[{error.code}]: {error.message}\nhelp: {error.help}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
