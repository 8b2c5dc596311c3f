"""Write tables and figures of the miniature's study: python -m jobs.miniature.results [--page docs/miniature.md].

The tables replace all that is below the line TABLES of the page; the figures go to the folder named as the page.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from jobs.miniature.figures import write_figures
from jobs.miniature.gathered import gather
from jobs.miniature.tables import all_tables
from wrpo_ray.console import run_command, start_logging
from wrpo_ray.errors import ConfigError

STUDY = "jobs/configs/study_miniature.yaml"
TABLES = "<!-- Below: written by python -m jobs.miniature.results -->"


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, write the files, print the tables, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", default=STUDY, help="the study's file")
    parser.add_argument("--page", type=Path, default=Path("docs/miniature.md"), help="the page that has the tables")
    options = parser.parse_args(arguments)
    start_logging(debug=False)
    return run_command(lambda: write(options.study, options.page), debug=False)


def write(study: str, page: Path) -> int:
    """Write the page's tables, figure_3.svg and figure_5.svg; raises ConfigError while runs are missing."""
    prose = _prose(page)
    gathered = gather(study)
    tables = all_tables(gathered)
    folder = page.with_suffix("")
    folder.mkdir(exist_ok=True)
    # Before the page, so that a figure that cannot be drawn leaves no new tables beside an older figure.
    write_figures(gathered, folder)
    page.write_text(f"{prose}{TABLES}\n\n{tables}", encoding="utf-8")
    print(tables)
    return 0


def _prose(page: Path) -> str:
    """Return what stands above the tables."""
    prose, found, _ = page.read_text(encoding="utf-8").partition(TABLES)
    if not found:
        raise ConfigError(f"{page} has no line that says where the tables begin", help=f"add the line: {TABLES}")
    return prose


if __name__ == "__main__":
    sys.exit(main())
