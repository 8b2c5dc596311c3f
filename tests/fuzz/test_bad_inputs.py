"""Every bad input of the catalogue gets the code, the exit code and the words that docs/bad_inputs.md tells."""

from pathlib import Path

import pytest

from tests.fuzz.bad_input import BadInput, tried
from tests.fuzz.catalogue import BAD_INPUTS, markdown

PAGE = Path(__file__).parents[2] / "docs/bad_inputs.md"
# Of the letter of a code: configuration, data, storage, models and engines.
EXIT_CODES = {"C": 2, "D": 3, "S": 6, "E": 8}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("bad", BAD_INPUTS, ids=lambda bad: bad.name)
def test_a_bad_input_gets_what_the_documentation_says(bad: BadInput, tmp_path: Path) -> None:
    got = tried(bad, tmp_path)
    assert "Traceback" not in got.shown
    if bad.code is None:
        assert (got.exit_code, got.shown) == (0, "")
        return
    assert got.shown.startswith(f"error[{bad.code}]: ")
    assert got.shown.count("error[") == 1
    assert got.exit_code == EXIT_CODES[bad.code[5]]
    assert " ".join(bad.says.split()) in " ".join(got.shown.split())


def test_names_are_different() -> None:
    assert len({bad.name for bad in BAD_INPUTS}) == len(BAD_INPUTS)


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == markdown(), "run: python -m tests.fuzz.catalogue > docs/bad_inputs.md"
