"""SECURITY.md promises nothing without a test of that name."""

import ast
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
_ROW = re.compile(r"^\| (?P<promise>.+?) \| (?P<tests>[^|]*`tests/[^|]+) \|$")
_TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


def promises() -> dict[str, str]:
    text = (REPOSITORY / "SECURITY.md").read_text(encoding="utf-8")
    table = text[text.index("## What is done") : text.index("## What is not done")]
    rows = [line for line in table.splitlines() if line.startswith("|") and not line.startswith(("|---", "| promise"))]
    found = [_ROW.match(line) for line in rows]
    assert all(found), [line for line, match in zip(rows, found, strict=True) if not match]
    return {match["promise"]: match["tests"] for match in found if match}


@pytest.mark.parametrize("promise", promises())
def test_every_promise_names_tests_that_there_are(promise: str) -> None:
    named = _TEST.findall(promises()[promise])
    assert named
    for path, function in named:
        tree = ast.parse((REPOSITORY / path).read_text(encoding="utf-8"))
        functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert any(name.startswith("test_") for name in functions)
        assert not function or function in functions, f"{path} has no {function}"
