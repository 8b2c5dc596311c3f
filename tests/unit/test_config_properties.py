"""Any one thing that is wrong with a config is one problem that names it, and no text whatever ends in a traceback."""

import contextlib
import copy
import json
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.test_config import MINIMAL
from wrpo_ray.config_file import dump_config, load_config, parse_config
from wrpo_ray.errors import ConfigError, Problem, render

KeyPath = tuple[str | int, ...]
VALID: dict[str, Any] = json.loads(dump_config(parse_config(MINIMAL, "fuse.yaml")))
# Keys of these sections are free.
FREE = (
    "code_sha256",
    "extra_args",
    "env_vars",
    "deepspeed",
    "per_hour",
    "per_million_tokens",
    "cluster",
    "accelerators",
)


def nodes(value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Yield every value of a config with its path."""
    if path:
        yield path, value
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from nodes(child, (*path, key))


NODES = list(nodes(VALID))
SECTIONS = [path for path, value in NODES if isinstance(value, dict) and path[-1] not in FREE]
REQUIRED: list[KeyPath] = [
    ("run",), ("run", "name"), ("prompts",), ("prompts", "path"), ("sources",), ("target",), ("target", "name"),
    ("reward",), ("reward", "type"), ("reward", "path"), ("sft",), ("sft", "learning_rate"), ("wrpo", "learning_rate"),
    ("sources", 1, "name"), ("sources", 0, "path"),
]  # fmt: skip


def child(config: Any, path: KeyPath) -> Any:
    for part in path:
        config = config[part]
    return config


def problems_of(config: dict[str, Any]) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        parse_config(json.dumps(config), "fuse.yaml")
    assert render(caught.value).startswith("error[WRPO-C")
    return caught.value.problems


def dotted(path: KeyPath) -> str:
    return f"`{'.'.join(str(part) for part in path)}`"


@given(st.sampled_from(SECTIONS), st.text(string.ascii_lowercase + "_ ", min_size=1, max_size=12))
@settings(deadline=None, max_examples=40)
def test_one_unknown_key_is_one_problem_that_names_it(section: KeyPath, key: str) -> None:
    config = copy.deepcopy(VALID)
    if key in child(config, section):
        return
    child(config, section)[key] = 1
    (problem,) = problems_of(config)
    assert problem.place.endswith(dotted((*section, key)))
    assert (problem.rule, problem.code) == ("unknown field", "WRPO-C003")


@pytest.mark.parametrize("path", REQUIRED, ids=dotted)
def test_one_missing_field_is_one_problem_that_names_it(path: KeyPath) -> None:
    config = copy.deepcopy(VALID)
    del child(config, path[:-1])[path[-1]]
    (problem,) = problems_of(config)
    assert problem.place.endswith(dotted(path))
    assert (problem.rule, problem.code) == ("this field is required", "WRPO-C004")


def test_mistake_in_model_defaults_is_one_problem_there() -> None:
    text = MINIMAL + "model_defaults:\n  engine:\n    max_num_seqs: many\n"
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "fuse.yaml")
    (problem,) = caught.value.problems
    assert problem.place == "fuse.yaml:15:5 `model_defaults.engine.max_num_seqs`"


def test_mistake_of_an_override_is_told_as_one() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(MINIMAL, "fuse.yaml", ["sources.second.sampling.top_p=2"])
    (problem,) = caught.value.problems
    assert problem.place == "override `sources.1.sampling.top_p`"


def test_problem_shows_the_line_and_marks_the_key() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(MINIMAL.replace("wrpo:\n", "wrpo:\n  beta: high\n"), "fuse.yaml")
    assert render(caught.value) == (
        "error[WRPO-C007]: must be a valid number\n"
        "  --> fuse.yaml:12:3 `wrpo.beta`\n"
        "12 |   beta: high\n"
        "   |   ^^^^\n"
        '   = value: "high"\n'
        "help: write it without quotes and without a unit"
    )


@given(st.text(max_size=40), st.text(max_size=10))
@settings(deadline=None, max_examples=40)
def test_any_override_is_applied_or_refused(value: str, key: str) -> None:
    for override in (value, f"wrpo.beta={value}", f"{key}={value}", f"sources.{key}.path={value}"):
        with contextlib.suppress(ConfigError):
            parse_config(MINIMAL, "fuse.yaml", [override])


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00", b"\xff\xfer\x00u\x00n\x00", b"\xef\xbb\xbf", b"run:\tx", b"a: " + b"1" * 5000, b"[" * 9999,
     b"x" * 2**21, b"a: 1e400", b"run: {name: \xff}"],
)  # fmt: skip
def test_files_that_are_no_config(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_bytes(content)
    with pytest.raises(ConfigError):
        load_config(tmp_path / "f.yaml")


def test_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_bytes(b"\xef\xbb\xbf" + MINIMAL.replace("\n", "\r\n").encode())
    assert load_config(tmp_path / "f.yaml") == parse_config(MINIMAL, "f.yaml")


def test_folder_in_place_of_a_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Is a directory"):
        load_config(tmp_path)
