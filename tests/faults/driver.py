"""The real driver of a run with fake engines: python -m tests.faults.driver CONFIG FAULT_FOLDER [--flag] [a.b=c].

Everything between config and quadruples is real: preflight, lease, Ray Data, supervisors, ledger, selection. Only the
engines' models and the SFT are not; training has tests of its own.
"""

from __future__ import annotations

import argparse
import sys

from tests.faults.fake_run import UpToQuadruples, engines
from wrpo_ray.config_file import load_config
from wrpo_ray.console import run_command, start_logging
from wrpo_ray.interrupts import interruptible
from wrpo_ray.run import driving, run


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("config")
    parser.add_argument("faults")
    parser.add_argument("--accept-changes", action="store_true")
    parser.add_argument("--retry-broken-sources", action="store_true")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_intermixed_args()
    start_logging()

    @interruptible()
    def command() -> int:
        config = load_config(options.config, options.overrides)
        with driving(config) as lease:
            pipeline = UpToQuadruples(config, engines(options.faults))
            run(
                pipeline,
                lease,
                accept_changes=options.accept_changes,
                retry_broken_sources=options.retry_broken_sources,
            )
        return 0

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
