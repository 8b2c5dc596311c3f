"""All bad inputs that are tried one by one; `python -m tests.fuzz.catalogue > docs/bad_inputs.md` writes them down."""

from __future__ import annotations

from collections.abc import Iterator

from tests.fuzz.bad_configs import CONFIGS
from tests.fuzz.bad_input import BadInput
from tests.fuzz.bad_prompts import PROMPTS
from tests.fuzz.bad_results import RESULTS_AND_RECORDS
from wrpo_ray.error_codes import CATALOGUE

BAD_INPUTS: list[BadInput] = [*CONFIGS, *PROMPTS, *RESULTS_AND_RECORDS]
_HEAD = """\
# Bad inputs

Written by `python -m tests.fuzz.catalogue`; edit `tests/fuzz/bad_*.py` instead. `tests/fuzz/test_bad_inputs.py` tries
every line at the boundary where errors become messages and exit codes, and checks the code, the exit code of its group
([errors](errors.md)) and the words below; none ends in a traceback.

Beside these, `make fuzz` tries thousands of inputs that nobody thought of: configs with one mutation, prompt rows and
files, rewards and replies, and records of a run (`tests/fuzz/test_*.py`). A small, fixed share of them is part of
`make test`.
"""


def markdown() -> str:
    """Return docs/bad_inputs.md."""
    lines = [_HEAD.rstrip()]
    for group in dict.fromkeys(bad.group for bad in BAD_INPUTS):
        lines += ["", f"## {group}", "", "| input | gets | in words |", "|---|---|---|", *_rows(group)]
    return "\n".join(lines) + "\n"


def _rows(group: str) -> Iterator[str]:
    for bad in BAD_INPUTS:
        if bad.group == group:
            got = f"{bad.code}, {CATALOGUE[bad.code].title}" if bad.code else "taken"
            words = f"...{bad.says}..." if bad.code else bad.says
            yield f"| {_cell(bad.given)} | {_cell(got)} | {_cell(words)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


if __name__ == "__main__":
    print(markdown(), end="")
