"""Which rows count against the budget, and when it is exceeded."""

import pytest

from wrpo_ray.config import RowsConfig
from wrpo_ray.errors import QuarantineError
from wrpo_ray.quarantine import Account, budget, counted, policy, require_within_budget


def test_codes_that_the_config_has_no_say_in_always_count() -> None:
    assert policy("engine_crash", RowsConfig()) == "quarantine"
    assert policy("prompt_too_long", RowsConfig()) == "drop"
    codes = {"engine_crash": 2, "prompt_too_long": 5, "response_cut": 7}
    assert counted(codes, RowsConfig()) == 2
    assert counted(codes, RowsConfig(prompt_too_long="quarantine")) == 7


@pytest.mark.parametrize(
    ("max_fraction", "max_rows", "num_items", "allowed"),
    [(0.05, None, 100, 5), (0.05, None, 19, 0), (0.05, 3, 100, 3), (0.05, 30, 100, 5), (0.0, None, 10, 0)],
)
def test_the_smaller_of_both_limits_holds(
    max_fraction: float, max_rows: int | None, num_items: int, allowed: int
) -> None:
    assert budget(RowsConfig(max_fraction=max_fraction, max_rows=max_rows), num_items) == allowed


def test_one_row_too_many_is_named_and_ends_with_4() -> None:
    rows = RowsConfig(max_fraction=1.0, max_rows=2)
    set_aside = [("a", "engine_crash"), ("b", "engine_timeout"), ("c", "prompt_too_long")]
    account = Account(rows)
    for item, code in set_aside:
        account.add(item, code)
    require_within_budget("sample x", 10, account)
    account.merge({"engine_crash": 1}, ["d"])
    with pytest.raises(QuarantineError) as caught:
        require_within_budget("sample x", 10, account)
    assert caught.value.exit_code == 4
    assert caught.value.message == (
        "sample x: 3 of 10 rows were set aside (2 engine_crash, 1 engine_timeout), 2 are allowed: a, b, d"
    )
