"""Evaluate a finished run: python jobs/evaluate.py --config X.yaml [evaluation.sources=all ...] [--dry-run]."""

from __future__ import annotations

import argparse
import sys

from wrpo_ray.cli import add_common_arguments
from wrpo_ray.config_file import load_config
from wrpo_ray.console import run_command, start_logging
from wrpo_ray.interrupts import interruptible


def main() -> int:
    """Parse the command line, evaluate, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True, help="YAML file of the run")
    parser.add_argument("--dry-run", action="store_true", help="check everything, print the steps, run nothing")
    parser.add_argument("overrides", nargs="*", metavar="a.b.c=value", help="replaces a value of the config")
    add_common_arguments(parser)
    options = parser.parse_intermixed_args()
    start_logging(options.debug)
    return run_command(lambda: evaluate(options), options.debug)


@interruptible()
def evaluate(options: argparse.Namespace) -> int:
    """Check everything, then import what is heavy and make the steps of the evaluation alone."""
    config = load_config(options.config, options.overrides)
    from wrpo_ray.live import show
    from wrpo_ray.run import driving, evaluation_pipeline, require_begun, run
    from wrpo_ray.steps import EVALUATION
    from wrpo_ray.summary import run_summary

    require_begun(config)
    if options.dry_run:
        print(evaluation_pipeline(config).plan(), flush=True)
        return 0
    with driving(config) as lease:
        pipeline = evaluation_pipeline(config)
        with show.shown(config, EVALUATION):
            manifests = run(pipeline, lease, EVALUATION)
    print(run_summary(manifests), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
