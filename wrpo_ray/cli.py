"""The `wrpo-ray` command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from wrpo_ray import __version__
from wrpo_ray.errors import WrpoError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit code; errors meant for the user are shown without a traceback."""
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except WrpoError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="wrpo-ray", description="Fuse many language models into one, on Ray.")
    parser.add_argument("--version", action="version", version=f"wrpo-ray {__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")
    doctor = commands.add_parser("doctor", help="show what is installed and what does not fit together")
    doctor.set_defaults(command=_doctor)
    return parser


def _doctor(options: argparse.Namespace) -> int:
    # Commands import what they need, so that --help answers at once.
    from wrpo_ray import doctor

    return doctor.main()
