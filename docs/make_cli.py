"""Writes docs/cli.md from what the commands say of themselves: python docs/make_cli.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "cli.md"
_NESTED = ("cluster render",)
_CALL = "import sys; from wrpo_ray.cli import main; sys.exit(main())"


def page() -> str:
    """Return the page: help of every job and every subcommand."""
    from wrpo_ray.cli import COMMANDS

    jobs = sorted(path.name for path in (ROOT / "jobs").glob("*.py") if path.name != "__init__.py")
    parts = [("wrpo-ray", [sys.executable, "-c", _CALL])]
    parts += [(f"wrpo-ray {name}", [sys.executable, "-c", _CALL, *name.split()]) for name in [*COMMANDS, *_NESTED]]
    parts += [(f"python jobs/{name}", [sys.executable, f"jobs/{name}"]) for name in jobs]
    lines = ["# Commands", "", "Written by `python docs/make_cli.py` from what the commands say of themselves."]
    for title, command in parts:
        lines += ["", f"## {title}", "", "```text", _help(command), "```"]
    return "\n".join(lines) + "\n"


def _help(command: list[str]) -> str:
    environment = {**os.environ, "COLUMNS": "110", "PYTHONPATH": str(ROOT)}
    found = subprocess.run([*command, "--help"], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return found.stdout.strip()


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    PAGE.write_text(page(), encoding="utf-8")
