"""`wrpo-ray evaluate RUN`: what the evaluation of a run found, from its folder alone."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

from wrpo_ray.errors import ConfigError
from wrpo_ray.evaluate.evaluation_file import FILE, read_evaluation_file
from wrpo_ray.evaluate.further_lines import found_lines
from wrpo_ray.evaluate.table import model_lines, pair_lines
from wrpo_ray.run_state import read_run
from wrpo_ray.storage.location import Location, locate
from wrpo_ray.storage.manifest import require_manifest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("run", metavar="RUN", help="the run's folder, or s3:// or gs:// URI: run.root/run.name")
    parser.add_argument("--json", action="store_true", help=f"print {FILE} as it is")


def main(options: argparse.Namespace) -> int:
    """Print the tables of a finished evaluation and return 0; raises what `read_evaluation` does."""
    found = read_evaluation(locate(options.run))
    print(json.dumps(found, indent=2, ensure_ascii=False) if options.json else render(found))
    return 0


def read_evaluation(run: Location) -> dict[str, Any]:
    """Return evaluation.json of the run's last start.

    Raises ConfigError when there is no run or no finished evaluation, StorageError when the file cannot be used.
    """
    steps = {step.name: step for step in read_run(run).steps}
    evaluate = steps.get("evaluate")
    if evaluate is None or evaluate.phase != "complete":
        state = "has no evaluation" if evaluate is None else f"has not finished its evaluation: {evaluate.phase}"
        help = "python jobs/evaluate.py --config X.yaml makes it, once the models are trained"
        raise ConfigError(f"the run {run} {state}", code="WRPO-C047", help=help)
    folder = locate(evaluate.folder)
    found = read_evaluation_file(folder, require_manifest(folder))
    if found is None:
        help = "python jobs/evaluate.py --config X.yaml makes the pairs from the answers that are there"
        raise ConfigError(f"the evaluation of {run} is of an older version", code="WRPO-C047", help=help)
    return found


def render(found: Mapping[str, Any]) -> str:
    """Return an evaluation as a text for a terminal."""
    pairs = [f"  {line}".rstrip() for line in pair_lines(found["pairs"])]
    lines = ["held-out prompts:", *(f"  {line}" for line in model_lines(found["models"])), ""]
    further = found_lines(found)
    return "\n".join([*lines, "pairs (ties count half):", *pairs, *(["", further] if further else [])])
