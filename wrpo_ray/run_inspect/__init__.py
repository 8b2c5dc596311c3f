"""`wrpo-ray inspect RUN [STEP] [--repair]`: is a run what was written, and what must be made again?"""

from __future__ import annotations

import argparse
import difflib

from wrpo_ray.errors import ConfigError
from wrpo_ray.run_inspect.findings import RunReport
from wrpo_ray.run_inspect.repair import Removal, carry_out, planned_removals
from wrpo_ray.run_inspect.report import as_json, render
from wrpo_ray.run_inspect.verify import verify_run
from wrpo_ray.run_state import RunState, read_run
from wrpo_ray.run_status import damaged_run
from wrpo_ray.storage.lease import held
from wrpo_ray.storage.location import locate
from wrpo_ray.storage.manifest import RunLayout

_LEASE_TIMEOUT_S = 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("run", metavar="RUN", help="the run's folder, or s3:// or gs:// URI: run.root/run.name")
    parser.add_argument("step", metavar="STEP", nargs="?", help="one step alone, in detail")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument(
        "--repair", action="store_true", help="remove what does not verify, so that the next run makes just that again"
    )


def main(options: argparse.Namespace) -> int:
    """Check a run and print what was found; return 0 when it is whole or has been repaired.

    Raises StorageError (exit code 6) when it is damaged, or a run whose steps it reads is: that one is not repaired
    from here; LeaseError (5) when a repair meets a live driver, ConfigError (2) when there is no such run or step.
    """
    folder = locate(options.run)
    state = read_run(folder)
    if options.step is not None:
        _require_step(state, options.step)
    if not options.repair:
        report = verify_run(state, folder, options.step)
        _show(options, report, [])
        if report.every_finding:
            raise damaged_run(state.folder, [finding.damage for finding in report.every_finding], state)
        return 0
    # Whoever repairs holds the run: no driver can begin with what is being removed.
    with held(RunLayout(folder).leases, _LEASE_TIMEOUT_S) as lease:
        report = verify_run(read_run(folder, ask_owner=False), folder, options.step)
        removed = list(carry_out(planned_removals(report, RunLayout(folder)), lease.check))
    _show(options, report, removed)
    if report.reused_findings:
        raise damaged_run(state.folder, [finding.damage for finding in report.reused_findings], state)
    return 0


def _require_step(state: RunState, name: str) -> None:
    names = [step.name for step in state.steps]
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean `{close[0]}`? " if close else ""
        raise ConfigError(
            f"the run {state.folder} has no step `{name}`", code="WRPO-C041",
            help=f"{hint}the steps are: {', '.join(names) or 'none yet'}",
        )  # fmt: skip


def _show(options: argparse.Namespace, report: RunReport, removed: list[Removal]) -> None:
    if options.json:
        print(as_json(report, removed))
        return
    print(render(report, details=options.step is not None))
    print(_closing(removed, bool(report.every_finding), options.repair))


def _closing(removed: list[Removal], damaged: bool, repair: bool) -> str:
    if removed:
        lines = ["", "removed:", *(f"  {removal}" for removal in removed), ""]
        return "\n".join([*lines, "next: start the run again with its config; it makes again what is missing"])
    if damaged:
        return ""
    return "\nnothing to repair: everything verifies" if repair else "\neverything verifies"
