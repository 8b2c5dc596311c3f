"""Fuse language models into one: python jobs/fuse.py --config X.yaml [a.b.c=value ...] [--only STEP] [--dry-run]."""

from __future__ import annotations

import argparse
import sys

from wrpo_ray.cli import add_common_arguments
from wrpo_ray.config_file import load_config
from wrpo_ray.console import run_command, start_logging
from wrpo_ray.interrupts import interruptible


def main() -> int:
    """Parse the command line, run, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True, help="YAML file of the run")
    parser.add_argument("--only", metavar="STEP", help="run this step alone; its inputs must be complete")
    parser.add_argument("--dry-run", action="store_true", help="check everything, print the steps, run nothing")
    parser.add_argument("--accept-changes", action="store_true", help="go on with a run whose config has changed")
    parser.add_argument("--retry-broken-sources", action="store_true", help="try sources again that were given up")
    parser.add_argument("overrides", nargs="*", metavar="a.b.c=value", help="replaces a value of the config")
    add_common_arguments(parser)
    options = parser.parse_intermixed_args()
    start_logging(options.debug)
    return run_command(lambda: fuse(options), options.debug)


@interruptible()
def fuse(options: argparse.Namespace) -> int:
    """Check everything, then import what is heavy and run."""
    config = load_config(options.config, options.overrides)
    from wrpo_ray.live import closing, show
    from wrpo_ray.report.at_end import Reported
    from wrpo_ray.run import checked_pipeline, driving, run, usable
    from wrpo_ray.summary import run_summary

    if options.dry_run:
        print(usable(checked_pipeline(config, options.only)).plan(), flush=True)
        return 0
    with Reported(config.run), driving(config) as lease:
        pipeline = checked_pipeline(config, options.only)
        print(usable(pipeline, options.retry_broken_sources).plan(), flush=True)
        with show.shown(config, options.only) as live:
            manifests = run(pipeline, lease, options.only, options.accept_changes)
    print(f"{run_summary(manifests)}\n\n{closing.closing_text(live, manifests)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
