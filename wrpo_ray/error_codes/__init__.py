"""Every error code of wrpo_ray with its meaning: `wrpo-ray explain CODE`, and docs/errors.md."""

from __future__ import annotations

import argparse
import difflib
import textwrap

from wrpo_ray import config_reference
from wrpo_ray.error_codes.clusters import CLUSTERS
from wrpo_ray.error_codes.entry import Entry
from wrpo_ray.error_codes.evaluation import EVALUATION
from wrpo_ray.error_codes.inputs import INPUTS
from wrpo_ray.error_codes.jobs import JOBS
from wrpo_ray.error_codes.machine import MACHINE
from wrpo_ray.error_codes.models import MODELS
from wrpo_ray.error_codes.plans import PLANS
from wrpo_ray.error_codes.running import RUNNING
from wrpo_ray.error_codes.trust import TRUST
from wrpo_ray.errors import ConfigError

CATALOGUE: dict[str, Entry] = dict(
    sorted((INPUTS | JOBS | EVALUATION | PLANS | CLUSTERS | MODELS | MACHINE | RUNNING | TRUST).items())
)
GROUPS = {
    "B": "Bugs",
    "C": "Configuration and this machine",
    "D": "Input data",
    "E": "Engines",
    "I": "Interruptions",
    "J": "Jobs on a cluster",
    "L": "Lease",
    "M": "Models",
    "Q": "Quarantine",
    "R": "Resuming",
    "S": "Storage",
    "T": "Training",
}
EXIT_CODES = {
    0: "done",
    2: "the configuration or the command line cannot be used",
    3: "input data breaks a rule",
    4: "more rows were set aside than the budget allows",
    5: "another driver holds the run",
    6: "storage cannot be used, or holds something else than was written",
    7: "interrupted; the same command goes on where it stopped",
    8: "a model, tokenizer or reward model cannot do what is asked of it",
    70: "a bug of wrpo_ray or of a library that it uses",
}
_WIDTH = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument(
        "code", nargs="?", metavar="CODE|FIELD",
        help="an error, such as WRPO-C003, or a field of a config, such as wrpo.alpha.end; without one, all errors",
    )  # fmt: skip
    parser.add_argument("--markdown", action="store_true", help="print all errors as a page of documentation")
    parser.add_argument("--config-markdown", action="store_true", help="print all fields as a page of documentation")


def main(options: argparse.Namespace) -> int:
    """Print one code or field, all codes, docs/errors.md or docs/config.md; raises ConfigError for what is neither."""
    if options.markdown:
        print(markdown(), end="")
    elif options.config_markdown:
        print(config_reference.markdown(), end="")
    elif options.code and (field := config_reference.explain_field(options.code)):
        print(field)
    elif options.code:
        print(explain(options.code))
    else:
        print(overview())
    return 0


def explain(code: str) -> str:
    """Return what `code` means and what to do; letters of either case, with or without WRPO-."""
    full = code.upper() if code.upper().startswith("WRPO-") else f"WRPO-{code.upper()}"
    if full not in CATALOGUE:
        close = difflib.get_close_matches(full, CATALOGUE, n=1, cutoff=0.85)
        hint = f"did you mean `{close[0]}`? " if close else ""
        help = f"{hint}`wrpo-ray explain` lists all codes, docs/config.md all fields"
        raise ConfigError(f"no error and no field of a config is called {code!a}", code="WRPO-C032", help=help)
    entry = CATALOGUE[full]
    meaning, action = (textwrap.fill(text, _WIDTH) for text in (entry.meaning, f"What to do: {entry.action}"))
    return f"{full}: {entry.title}\n\n{meaning}\n\n{action}"


def overview() -> str:
    """Return all codes with their titles, and all exit codes."""
    lines = [f"{code}  {entry.title}" for code, entry in CATALOGUE.items()]
    exits = [f"{code:>9}  {meaning}" for code, meaning in EXIT_CODES.items()]
    return "\n".join([*lines, "", "exit codes:", *exits])


def markdown() -> str:
    """Return docs/errors.md."""
    lines = [
        "# Errors",
        "",
        "Written by `wrpo-ray explain --markdown`; edit `wrpo_ray/error_codes/` instead.",
        "",
        "## Exit codes",
        "",
        "| code | meaning |",
        "|---|---|",
        *(f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.items()),
    ]
    for letter, title in GROUPS.items():
        lines += ["", f"## {title}"]
        for code, entry in CATALOGUE.items():
            if code.startswith(f"WRPO-{letter}"):
                lines += ["", f"### {code}: {entry.title}", "", entry.meaning, "", f"*What to do:* {entry.action}"]
    return "\n".join(lines) + "\n"
