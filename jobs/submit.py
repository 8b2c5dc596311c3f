"""Submit a run to a cluster: python jobs/submit.py --config X.yaml [a.b.c=value ...] [--address URL] [--no-wait]."""

from __future__ import annotations

import argparse
import sys

from wrpo_ray.cli import add_common_arguments
from wrpo_ray.config_file import load_config
from wrpo_ray.console import run_command, start_logging

PASSED_ON = {"accept_changes": "--accept-changes", "retry_broken_sources": "--retry-broken-sources"}


def main() -> int:
    """Parse the command line, submit, follow, and return the exit code of the job."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True, help="YAML file of the run, in the working directory")
    parser.add_argument("--address", help="the cluster's dashboard, such as http://127.0.0.1:8265")
    parser.add_argument("--working-dir", default=".", help="folder that goes with the job; it holds jobs/")
    parser.add_argument("--no-wait", action="store_true", help="end as soon as the cluster has the job")
    parser.add_argument("--accept-changes", action="store_true", help="as of jobs/fuse.py")
    parser.add_argument("--retry-broken-sources", action="store_true", help="as of jobs/fuse.py")
    parser.add_argument("overrides", nargs="*", metavar="a.b.c=value", help="replaces a value of the config")
    add_common_arguments(parser)
    options = parser.parse_intermixed_args()
    start_logging(options.debug)
    return run_command(lambda: submit(options), options.debug)


def submit(options: argparse.Namespace) -> int:
    """Check the config, then hand the run over."""
    from wrpo_ray import job_submission as jobs

    config = load_config(options.config, options.overrides)
    extra = (*options.overrides, *(flag for name, flag in PASSED_ON.items() if getattr(options, name)))
    job = jobs.Job(config, options.config, options.working_dir, extra)
    # What is wrong with the job itself is said before anything is asked of a cluster.
    job.entrypoint()
    client = jobs.connect(options.address)
    submission_id = jobs.submit(client, job)
    print("\n".join(jobs.how_to_look(submission_id)), flush=True)
    return 0 if options.no_wait else jobs.follow(client, submission_id)


if __name__ == "__main__":
    sys.exit(main())
