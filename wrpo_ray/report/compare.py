"""`wrpo-ray compare RUN RUN...`: runs side by side, as a table on the terminal and, when asked, as a page."""

from __future__ import annotations

import argparse

from wrpo_ray.errors import ConfigError, Problem
from wrpo_ray.report.compare_page import compare_page
from wrpo_ray.report.folder import read_facts
from wrpo_ray.report.side_by_side import Block, blocks, labels
from wrpo_ray.run_status import table
from wrpo_ray.storage.location import locate

_MOST_CHARACTERS = 40


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("runs", metavar="RUN", nargs="+", help="folders of runs, or s3:// or gs:// URIs; two or more")
    parser.add_argument("--html", metavar="FILE", help="also write a page with charts (a path or a URI)")


def main(options: argparse.Namespace) -> int:
    """Print the runs side by side and return 0; raises ConfigError when a folder is no run."""
    folders = list(dict.fromkeys(str(locate(run)) for run in options.runs))
    if len(folders) < 2 or len(folders) < len(options.runs):
        problem = Problem("RUN", ", ".join(options.runs), "two or more different runs", "name them", "WRPO-C067")
        raise ConfigError.of("nothing to compare", [problem])
    runs = [read_facts(locate(folder)) for folder in folders]
    names, found = labels(runs), blocks(runs)
    print("\n\n".join(text for block in found if (text := block_text(names, block))))
    if options.html:
        place = locate(options.html)
        place.write_bytes(compare_page(names, runs, found).encode("utf-8"))
        print(f"\npage: {place}")
    return 0


def block_text(names: list[str], block: Block) -> str:
    """Return a block as aligned columns under its title; of a long value the beginning."""
    if not block.rows:
        return f"{block.title}: {block.empty}"
    rows = [("", *names), *((f"  {name}", *map(_short, cells)) for name, cells in block.rows)]
    return f"{block.title}\n{table(rows)}"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MOST_CHARACTERS else f"{line[: _MOST_CHARACTERS - 3]}..."
