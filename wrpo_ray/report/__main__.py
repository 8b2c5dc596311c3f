"""python -m wrpo_ray.report RUN: what `wrpo-ray report` does, for a process of its own; see at_end.py."""

from __future__ import annotations

import argparse
import sys

from wrpo_ray.console import run_command
from wrpo_ray.report import command

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m wrpo_ray.report", description=__doc__)
    command.add_arguments(parser)
    options = parser.parse_args()
    sys.exit(run_command(lambda: command.main(options)))
