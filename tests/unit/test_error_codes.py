"""Every code that is raised is explained, every explained one is raised, and docs/errors.md says the same."""

import argparse
import re
from pathlib import Path

import pytest

from wrpo_ray import error_codes
from wrpo_ray.error_codes import CATALOGUE, EXIT_CODES, GROUPS, explain, markdown, overview
from wrpo_ray.errors import ConfigError, WrpoError

ROOT = Path(__file__).parents[2]
CODE = re.compile(r"WRPO-[A-Z]\d{3}")


def used_codes() -> dict[str, str]:
    """Return every code in the sources, with a file that uses it."""
    files = [path for folder in ("wrpo_ray", "jobs") for path in (ROOT / folder).rglob("*.py")]
    return {
        code: str(path.relative_to(ROOT))
        for path in files
        if path.parent.name != "error_codes" or path.name == "__init__.py"
        for code in CODE.findall(path.read_text(encoding="utf-8"))
    }


def test_every_used_code_is_explained() -> None:
    assert {code: place for code, place in used_codes().items() if code not in CATALOGUE} == {}


def test_every_explained_code_is_used() -> None:
    assert set(CATALOGUE) - set(used_codes()) == set()


def test_entries_are_whole() -> None:
    for code, entry in CATALOGUE.items():
        assert CODE.fullmatch(code)
        assert code[5] in GROUPS
        assert entry.title
        assert not entry.title.endswith(".")
        assert entry.meaning.endswith(".")
        assert entry.action.endswith(".")


def test_every_exit_code_is_documented() -> None:
    raised = {kind.exit_code for kind in [WrpoError, *WrpoError.__subclasses__()]}
    assert raised <= set(EXIT_CODES)
    assert set(EXIT_CODES) == {0, 2, 3, 4, 5, 6, 7, 8, 70}


@pytest.mark.parametrize("written", ["WRPO-D012", "wrpo-d012", "D012", "d012"])
def test_explain(written: str) -> None:
    assert explain(written).startswith("WRPO-D012: text is not valid Unicode\n\n")
    assert "What to do: " in explain(written)


def test_unknown_code_suggests_one() -> None:
    with pytest.raises(ConfigError) as caught:
        explain("WRPO-D01")
    assert "did you mean `WRPO-D" in str(caught.value.help)


def test_overview_lists_all() -> None:
    assert CODE.findall(overview()) == sorted(CATALOGUE)


def test_documentation_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert error_codes.main(argparse.Namespace(markdown=True, code=None)) == 0
    printed = capsys.readouterr().out
    assert printed == markdown()
    written = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    assert written == printed, "run: wrpo-ray explain --markdown > docs/errors.md"
