"""`wrpo-ray plan CONFIG [a.b.c=value ...]`: what a run takes, before it takes it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from wrpo_ray.config_file import load_config
from wrpo_ray.errors import ConfigError, Problem, StorageError
from wrpo_ray.planning.fit import GB, Fit
from wrpo_ray.planning.gantt import gantt_html, gantt_svg
from wrpo_ray.planning.plan import RunPlan, plan_run
from wrpo_ray.planning.text import plan_json, plan_text
from wrpo_ray.storage.location import locate

_SUFFIXES = (".svg", ".html")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("config", metavar="CONFIG", help="YAML file of the run")
    parser.add_argument("overrides", nargs="*", metavar="a.b.c=value", help="replaces a value of the config")
    parser.add_argument("--out", metavar="FILE", help="write the schedule as a picture: .svg, or .html with all of it")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("--against", metavar="RUN", help="compare with what the steps of this run's folder really took")


def main(options: argparse.Namespace) -> int:
    """Print the plan and return 0; raises ConfigError for a plan that cannot be made or does not fit into memory."""
    config = load_config(options.config, options.overrides)
    _check_out(options.out)
    plan = plan_run(config)
    if options.against:
        from wrpo_ray.planning.against import against_run

        print(against_run(plan, locate(options.against)))
        return 0
    print(json.dumps(plan_json(plan), indent=2) if options.json else plan_text(plan))
    if options.out:
        _write(options.out, plan)
    if plan.misfits:
        raise ConfigError.of("models do not fit into memory", [_problem(fit) for fit in plan.misfits])
    return 0


def _check_out(out: str | None) -> None:
    if out is not None and Path(out).suffix not in _SUFFIXES:
        problem = Problem("--out", out, "must end in .svg or .html", "choose one of them", "WRPO-C066")
        raise ConfigError.of("cannot write the picture", [problem])


def _write(out: str, plan: RunPlan) -> None:
    path = Path(out)
    content = gantt_svg(plan) if path.suffix == ".svg" else gantt_html(plan, plan_text(plan))
    try:
        path.write_text(content, encoding="utf-8")
    except OSError as error:
        raise StorageError(
            f"cannot write {out}: {error.strerror}", code="WRPO-S002", help="choose another place"
        ) from error


def _problem(fit: Fit) -> Problem:
    value = f"{fit.needed / GB:.1f} GB on one {fit.accelerator}"
    return Problem(fit.place, value, fit.reason, fit.fix, "WRPO-C065")
