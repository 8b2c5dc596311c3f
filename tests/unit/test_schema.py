"""Row types and their tables; identities that must never change."""

import dataclasses
from typing import Any, get_args

import pytest

from wrpo_ray import schema
from wrpo_ray.schema import Prompt, Quadruple, ReferenceLogps, Response, ScoredResponse, SFTExample

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why is the sky blue? 🙂"}]
ROWS = [
    Prompt("p", MESSAGES, "sft", None),
    Response("p", "first", 0, "text", [1, 2], "stop", 2),
    ScoredResponse("p", "first", 0, "text", "stop", 2, float("-inf")),
    SFTExample("p", MESSAGES, "text", "first", 0.5, "stop"),
    Quadruple("p", MESSAGES, "a", "b", "c", "first", 3.0, 2.0, 1.0, "stop", "length", "stop"),
    ReferenceLogps("p", -1.0, -2.0, -3.0, 4, 5, 6),
]


def test_prompt_id_is_golden() -> None:
    """Stored runs are found again by this value: it may not change, also not with a new Python."""
    assert schema.prompt_id(MESSAGES) == "05e498b64b219b9f7b6f2096e0bb0160"


def test_stable_hash_is_golden() -> None:
    assert schema.stable_hash("split", "abc", 7) == 6938000202225633785


def test_prompt_id_ignores_order_of_keys_and_nothing_else() -> None:
    turned = [{"content": m["content"], "role": m["role"]} for m in MESSAGES]
    assert schema.prompt_id(turned) == schema.prompt_id(MESSAGES)
    spaced = [MESSAGES[0], {"role": "user", "content": MESSAGES[1]["content"] + " "}]
    assert schema.prompt_id(spaced) != schema.prompt_id(MESSAGES)
    composed, decomposed = [{"role": "user", "content": "é"}], [{"role": "user", "content": "e\u0301"}]
    assert schema.prompt_id(composed) != schema.prompt_id(decomposed)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: type(row).__name__)
def test_rows_survive_a_table(row: Any) -> None:
    assert schema.to_rows(schema.to_table([row], type(row)), type(row)) == [row]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: type(row).__name__)
def test_schema_has_the_fields_of_its_type(row: Any) -> None:
    assert type(row).SCHEMA.names == [field.name for field in dataclasses.fields(row)]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: type(row).__name__)
def test_no_rows_make_an_empty_table_with_the_schema(row: Any) -> None:
    assert schema.to_table([], type(row)).schema == type(row).SCHEMA


def test_rows_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ROWS[0].split = "preference"  # type: ignore[misc]


def test_splits() -> None:
    assert get_args(schema.Split) == ("sft", "preference")
