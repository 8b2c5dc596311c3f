"""The `wrpo-ray` command: doctor, plan, fetch, status, inspect, evaluate, export, report, compare, cluster, explain."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from wrpo_ray import __version__
from wrpo_ray.console import run_command, start_logging

# Each module offers main(options) -> exit code, and add_arguments(parser) when it takes any.
COMMANDS = {
    "doctor": ("wrpo_ray.doctor", "show what is installed and what does not fit together"),
    "plan": ("wrpo_ray.planning.command", "say what a run takes: time, GPU-hours, price, memory, schedule"),
    "fetch": ("wrpo_ray.fetch", "bring a run's models from the hub: pinned to commits, compared by hash"),
    "status": ("wrpo_ray.run_status", "show where a run stands, from its folder alone"),
    "inspect": ("wrpo_ray.run_inspect", "check every file of a run; --repair removes what does not verify"),
    "evaluate": ("wrpo_ray.evaluation_command", "show what a run's evaluation found, from its folder alone"),
    "export": ("wrpo_ray.export_run", "write a run's model and data as folders with cards; --push-to-hub uploads them"),
    "report": ("wrpo_ray.report.command", "write one HTML file that shows a run: sources, training, cost, result"),
    "compare": ("wrpo_ray.report.compare", "put runs side by side: configs, win shares, metrics, evaluation, cost"),
    "cluster": ("wrpo_ray.cluster_render.command", "render what brings a run up on KubeRay or Anyscale"),
    "explain": ("wrpo_ray.error_codes", "say what an error means and what to do, or what a field of a config is"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit code; errors meant for the user are shown without a traceback."""
    options = _parser().parse_args(arguments)
    start_logging(options.debug)
    return run_command(lambda: import_module(options.module).main(options), options.debug)


class _CommandParser(argparse.ArgumentParser):
    """Parser of one subcommand, whose module is imported when it is the one that was asked for."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        module = self.get_default("module")
        if not self.get_default("is_complete"):
            self.set_defaults(is_complete=True)
            getattr(import_module(module), "add_arguments", _takes_nothing)(self)
        return super().parse_known_args(args, namespace)


def _takes_nothing(parser: argparse.ArgumentParser) -> None:
    """Stand in for the add_arguments of a module without options."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="wrpo-ray", description="Fuse many language models into one, on Ray.")
    add_common_arguments(parser, debug=False)
    commands = parser.add_subparsers(required=True, metavar="command", parser_class=_CommandParser)
    for name, (module, summary) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary)
        # --debug may stand before or behind the command; only where it stands does it set anything.
        add_common_arguments(command, debug=argparse.SUPPRESS)
        command.set_defaults(module=module)
    return parser


def add_common_arguments(parser: argparse.ArgumentParser, debug: Any = False) -> None:
    """Declare --debug, with this default, and --version."""
    parser.add_argument("--debug", action="store_true", default=debug, help="show tracebacks and more of the log")
    parser.add_argument("--version", action="version", version=f"wrpo-ray {__version__}")
