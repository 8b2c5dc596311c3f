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
    ("text", "message", "code"),
    [
        ("a: 1\na: 2\n", "f.yaml:2:1: the key `a` is written twice", "WRPO-C008"),
        ("a: {b: 1, b: 1}\n", "f.yaml:1:11: the key `b` is written twice", "WRPO-C008"),
        ("a: &x 1\nb: *x\n", "f.yaml:2:4: YAML aliases (`*name`) are not supported", "WRPO-C008"),
        ("a: &x {c: 1}\nb: {<<: *x}\n", "f.yaml:2:9: YAML aliases (`*name`) are not supported", "WRPO-C008"),
        ("1: a\n", "f.yaml:1:1: a key must be text", "WRPO-C008"),
        ("a: [1\n", "f.yaml is not valid YAML", "WRPO-C005"),
        ("a: \x00", "f.yaml is not valid YAML", "WRPO-C005"),
        ("a: !!python/object/apply:os.getcwd []", "f.yaml:1:4: YAML tags (`!name`) are", "WRPO-C008"),
        ("a: !!int text", "f.yaml:1:4: YAML tags (`!name`) are not supported", "WRPO-C008"),
        ("a: ! text", "f.yaml:1:4: YAML tags (`!name`) are not supported", "WRPO-C008"),
        ("a: " + "1" * 5000, "f.yaml holds a number that cannot be read", "WRPO-C005"),
        ("[" * 5000, "f.yaml is nested too deeply", "WRPO-C008"),
        ('b: 1\na: "x\\ud83d"', "f.yaml:2:4: half of a surrogate pair is no character", "WRPO-C012"),
        ('a: "\\ude00\\ud83d"', "f.yaml:1:4: half of a surrogate pair is no character", "WRPO-C012"),
    ],
)
def test_refusals_begin_with_the_place(text: str, message: str, code: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "f.yaml")
    assert str(caught.value).startswith(message)
    assert caught.value.code == code


def test_a_character_that_json_writes_as_two_escapes_is_one() -> None:
    assert parse_yaml('{"a\\ud83d\\ude00": "\\ud83d\\ude00"}', "f.json") == {"a\U0001f600": "\U0001f600"}


def test_text_that_the_faster_loader_refuses_has_no_position() -> None:
    assert position_of('a: "\\ud83d\\ude00"\nb: 1\n', ("b",)) is None


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
