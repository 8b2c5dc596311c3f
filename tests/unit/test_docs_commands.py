"""Every command in the docs is run: here, by another test that is named, or it says what it needs instead."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"]
# A mark in a comment, then a block of commands; both may be indented, in a list.
MARKED = re.compile(r"(?:<!-- (?P<mark>[^\n]+?) -->\n\s*)?```bash\n(?P<commands>.*?)```", re.DOTALL)
FENCED = re.compile(r"^[ \t]*```(\w*)[^\n]*\n(.*?)^[ \t]*```[ \t]*$", re.DOTALL | re.MULTILINE)
RUN_HERE, RUN_BY, NEEDS = "run here", "run by: ", "needs: "


def blocks() -> list[tuple[str, str, str]]:
    """Return page, mark and commands of every block of commands."""
    return [
        (page.name, match["mark"] or "", match["commands"])
        for page in PAGES
        for match in MARKED.finditer(page.read_text(encoding="utf-8"))
    ]


def lines(commands: str) -> list[str]:
    joined = re.sub(r"\\\n\s*", " ", commands)
    return [line.strip() for line in joined.splitlines() if line.strip()]


HERE = [(page, line) for page, mark, commands in blocks() if mark == RUN_HERE for line in lines(commands)]


def test_every_block_of_commands_says_who_runs_it() -> None:
    unmarked = [(page, commands) for page, mark, commands in blocks() if not mark.startswith((RUN_HERE, RUN_BY, NEEDS))]
    assert unmarked == []


def test_the_tests_that_are_named_exist() -> None:
    named = [mark.removeprefix(RUN_BY).split()[0] for _, mark, _ in blocks() if mark.startswith(RUN_BY)]
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_commands_stand_in_blocks_that_are_marked_as_such() -> None:
    """A block without a language may hold a picture or an output, never a command line to type."""
    begins = re.compile(r"^\s*(make [a-z]|wrpo-ray [a-z]|python jobs/|ray job |alpaca_eval --)")
    for page in PAGES:
        found = FENCED.findall(page.read_text(encoding="utf-8"))
        plain = [block for language, block in found if language != "bash"]
        assert [line for block in plain for line in block.splitlines() if begins.match(line)] == [], page.name


def test_blocks_are_told_apart_by_their_fences() -> None:
    """What closes one block opens no other one."""
    assert FENCED.findall("```yaml\na: 1\n```\n\ntext\n\n```\nplain\n```\n") == [("yaml", "a: 1\n"), ("", "plain\n")]


@pytest.mark.parametrize(("page", "line"), HERE, ids=[f"{page}: {line[:60]}" for page, line in HERE])
def test_a_command_of_the_docs_works(page: str, line: str) -> None:
    found = subprocess.run(
        ["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False, env=_environment()
    )
    assert found.returncode == 0, f"{page}: {line}\n{found.stdout}\n{found.stderr}"
    assert found.stdout.strip()


def test_every_page_is_in_the_navigation_once() -> None:
    """MkDocs builds a page that nothing leads to without a word."""
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = sorted(re.findall(r"^ +- [^:]+: (\S+\.md)$", site, re.MULTILINE))
    assert pages == sorted(path.name for path in (ROOT / "docs").glob("*.md"))
    home = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert [page for page in pages if f"]({page})" not in home] == ["index.md"]


def _environment() -> dict[str, str]:
    import os

    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}


def test_the_page_of_commands_is_up_to_date() -> None:
    """Repair: `python docs/make_cli.py`."""
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        import make_cli  # pyright: ignore[reportMissingImports]
    finally:
        sys.path.pop(0)
    assert make_cli.PAGE.read_text(encoding="utf-8") == make_cli.page()
