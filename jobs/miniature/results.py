"""Write tables and figures of the miniature's study: python -m jobs.miniature.results [--out docs/miniature]."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from jobs.miniature.figures import write_figures
from jobs.miniature.gathered import gather
from jobs.miniature.tables import all_tables
from wrpo_ray.console import run_command, start_logging

STUDY = "jobs/configs/study_miniature.yaml"


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, write the files, print the tables, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", default=STUDY, help="the study's file")
    parser.add_argument("--out", type=Path, default=Path("docs/miniature"), help="folder to write to")
    options = parser.parse_args(arguments)
    start_logging(debug=False)
    return run_command(lambda: write(options.study, options.out), debug=False)


def write(study: str, out: Path) -> int:
    """Write tables.md, figure_3.svg and figure_5.svg; raises ConfigError while runs of the study are missing."""
    gathered = gather(study)
    out.mkdir(parents=True, exist_ok=True)
    tables = all_tables(gathered)
    (out / "tables.md").write_text(tables, encoding="utf-8")
    write_figures(gathered, out)
    print(tables)
    return 0


if __name__ == "__main__":
    sys.exit(main())
