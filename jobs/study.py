"""Work through a study: python jobs/study.py --config STUDY.yaml [study.x=value ...] [a.b.c=value ...] [--dry-run]."""

from __future__ import annotations

import argparse
import sys

from wrpo_ray.cli import add_common_arguments
from wrpo_ray.console import run_command, start_logging
from wrpo_ray.interrupts import interruptible
from wrpo_ray.study.load import load_study


def main() -> int:
    """Parse the command line, run, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True, help="YAML file of the study")
    parser.add_argument("--dry-run", action="store_true", help="check all runs, print who makes what, run nothing")
    parser.add_argument("--accept-changes", action="store_true", help="go on with runs whose config has changed")
    parser.add_argument("--retry-broken-sources", action="store_true", help="try sources again that were given up")
    parser.add_argument("overrides", nargs="*", metavar="a.b.c=value", help="replaces a value of every run's config")
    add_common_arguments(parser)
    options = parser.parse_intermixed_args()
    start_logging(options.debug)
    return run_command(lambda: work(options), options.debug)


@interruptible()
def work(options: argparse.Namespace) -> int:
    """Check everything of all runs, then work through them."""
    study = load_study(options.config, options.overrides)
    # What is heavy is imported once the configs are right.
    from wrpo_ray.study.sharing import Builder, shared_text, shares
    from wrpo_ray.study.work import Options, work_through

    builder = Builder(study)
    pipelines = builder.all()
    print(shared_text(study, shares(study.runs, pipelines)), flush=True)
    if options.dry_run:
        return 0
    return work_through(
        builder, pipelines, Options(options.accept_changes, options.retry_broken_sources, options.debug)
    )


if __name__ == "__main__":
    sys.exit(main())
