"""`wrpo-ray report RUN`: one HTML file on a run, from its folder alone."""

from __future__ import annotations

import argparse

from wrpo_ray.errors import ConfigError, Problem
from wrpo_ray.report.folder import read_facts
from wrpo_ray.report.page import QUADRUPLES, report_page
from wrpo_ray.storage.location import Location, locate

REPORT = "report.html"
# Their texts are all in the page.
MOST_QUADRUPLES = 1000
_FIX = "read fuse/.../data/train-*.parquet for all of them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("run", metavar="RUN", help="the run's folder, or s3:// or gs:// URI: run.root/run.name")
    parser.add_argument("--out", metavar="FILE", help=f"write it here (a path or a URI), not to RUN/{REPORT}")
    parser.add_argument(
        "--quadruples", metavar="N", type=int, default=QUADRUPLES, help=f"how many to browse ({QUADRUPLES})"
    )


def main(options: argparse.Namespace) -> int:
    """Write the report and return 0; raises ConfigError when there is no run, StorageError when a file fails."""
    if not 0 <= options.quadruples <= MOST_QUADRUPLES:
        problem = Problem("--quadruples", str(options.quadruples), f"must be 0 to {MOST_QUADRUPLES}", _FIX, "WRPO-C067")
        raise ConfigError.of("cannot make the report", [problem])
    folder = locate(options.run)
    print(write_report(folder, locate(options.out) if options.out else None, options.quadruples))
    return 0


def write_report(folder: Location, out: Location | None = None, most_quadruples: int = QUADRUPLES) -> Location:
    """Write the report of the run in `folder`, whole or not at all, and return where it lies."""
    place = out or folder / REPORT
    place.write_bytes(report_page(read_facts(folder), most_quadruples).encode("utf-8"))
    return place
