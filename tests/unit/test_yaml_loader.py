"""YAML 1.2 scalars, and refusals with a position."""

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wrpo_ray.errors import ConfigError
from wrpo_ray.yaml_loader import Position, excerpt, parse_yaml, position_of


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("7E-6", 7e-6),
        ("3.", 3.0),
        (".5", 0.5),
        ("-2", -2),
        ("no", "no"),
        ("on", "on"),
        ("12:30", "12:30"),
        ("010", "010"),
        ("1_000", "1_000"),
        ("2026-01-02", "2026-01-02"),
        ("true", True),
        ("~", None),
        ("", None),
        ("'1e-5'", "1e-5"),
    ],
)
def test_scalars(text: str, value: Any) -> None:
    parsed = parse_yaml(f"key: {text}", "f.yaml")["key"]
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a: 1\na: 2\n", "the key `a` is written twice"),
        ("a: {b: 1, b: 1}\n", "the key `b` is written twice"),
        ("a: &x 1\nb: *x\n", "aliases"),
        ("a: &x {c: 1}\nb: {<<: *x}\n", "aliases"),
        ("1: a\n", "a key must be text"),
        ("a: [1\n", "not valid YAML"),
        ("a: \x00", "not valid YAML"),
        ("a: !!python/object/apply:os.getcwd []", "tags"),
        ("a: !!int text", "tags"),
        ("a: ! text", "tags"),
        ("a: " + "1" * 5000, "a number that cannot be read"),
        ("[" * 5000, "nested too deeply"),
    ],
)
def test_refusals_name_the_file(text: str, part: str) -> None:
    with pytest.raises(ConfigError, match=part) as caught:
        parse_yaml(text, "f.yaml")
    assert "f.yaml" in str(caught.value)
    assert caught.value.code in ("WRPO-C005", "WRPO-C008")


@given(st.text(max_size=200))
def test_any_text_is_a_value_or_a_config_error(text: str) -> None:
    with contextlib.suppress(ConfigError):
        parse_yaml(text, "f.yaml")


def test_position_of_a_key_and_of_its_nearest_parent() -> None:
    text = "a:\n  b:\n    - 1\n    - clear: 2\n"
    assert position_of(text, ("a", "b", 1, "clear")) == Position(4, 7, 5)
    assert position_of(text, ("a", "b", 0)) == Position(3, 7, 1)
    assert position_of(text, ("a", "missing")) == Position(1, 1, 1)
    assert position_of(text, ("missing",)) is None


def test_excerpt_marks_the_key() -> None:
    assert excerpt("a:\n  clear: 2\n", Position(2, 3, 5)) == "2 |   clear: 2\n  |   ^^^^^"
    assert excerpt("a: " + "x" * 200, Position(1, 1, 1)) is None
