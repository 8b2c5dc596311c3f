"""Fuse language models into one: python jobs/fuse.py --config X.yaml [a.b.c=value ...] [--only STEP] [--dry-run]."""

from __future__ import annotations

import argparse
import logging
import sys

from wrpo_ray.config_file import load_config
from wrpo_ray.errors import WrpoError


def main() -> int:
    """Parse, check, then import what is heavy and run; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True, help="YAML file of the run")
    parser.add_argument("--only", metavar="STEP", help="run this step alone; its inputs must be complete")
    parser.add_argument("--dry-run", action="store_true", help="check everything, print the steps, run nothing")
    parser.add_argument("overrides", nargs="*", metavar="a.b.c=value", help="replaces a value of the config")
    arguments = parser.parse_intermixed_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        config = load_config(arguments.config, arguments.overrides)
        from wrpo_ray.preflight import require_runnable

        require_runnable(config)
        from wrpo_ray.pipeline import Pipeline
        from wrpo_ray.summary import run_summary

        pipeline = Pipeline(config)
        if arguments.only:
            pipeline.step(arguments.only)
        print(pipeline.plan(), flush=True)
        if not arguments.dry_run:
            print(run_summary(pipeline.run(arguments.only)), flush=True)
    except WrpoError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
