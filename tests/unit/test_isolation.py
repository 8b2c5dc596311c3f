"""Rows that end an engine are found by halving: the good ones keep their results, and the cost has a bound."""

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wrpo_ray.engines.isolation import BatchFailedError, run_isolated
from wrpo_ray.engines.protocol import SetAside
from wrpo_ray.errors import ModelError


class Engine:
    """Dies on the rows in `poison`; counts its starts as a supervisor would make them."""

    def __init__(self, poison: set[int]) -> None:
        self.poison, self.num_starts, self.running = poison, 0, False

    def attempt(self, rows: Sequence[int]) -> list[str]:
        self.num_starts += not self.running
        self.running = True
        if bad := self.poison.intersection(rows):
            self.running = False
            raise BatchFailedError("engine_crash", f"died of {min(bad)}")
        return [f"row {row}" for row in rows]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 8, 64, 100, 256])
def test_one_poison_row_costs_a_logarithm_of_starts(size: int) -> None:
    bound = 2 + 2 * math.ceil(math.log2(size))
    for poison in {0, size // 2, size - 1}:
        engine = Engine({poison})
        outcomes = run_isolated(range(size), engine.attempt, "test")
        assert outcomes[:poison] + outcomes[poison + 1 :] == [f"row {row}" for row in range(size) if row != poison]
        found = outcomes[poison]
        assert isinstance(found, SetAside)
        assert (found.code, found.error) == ("engine_crash", f"died of {poison}")
        assert found.attempts >= 2
        assert engine.num_starts <= bound, (size, poison, engine.num_starts, bound)


@given(st.integers(5, 40).flatmap(lambda size: st.tuples(st.just(size), st.sets(st.integers(0, size - 1), max_size=3))))
def test_exactly_the_poison_rows_are_set_aside(case: tuple[int, set[int]]) -> None:
    size, poison = case
    outcomes = run_isolated(range(size), Engine(poison).attempt, "test")
    assert {number for number, outcome in enumerate(outcomes) if isinstance(outcome, SetAside)} == poison
    assert [outcomes[row] for row in range(size) if row not in poison] == [
        f"row {row}" for row in range(size) if row not in poison
    ]


def test_a_death_that_no_row_is_to_blame_for_costs_one_more_try() -> None:
    deaths = [BatchFailedError("engine_timeout", "a node went away")]
    calls = []

    def attempt(rows: Sequence[int]) -> list[int]:
        calls.append(len(rows))
        if deaths:
            raise deaths.pop()
        return list(rows)

    assert run_isolated(range(9), attempt, "test") == list(range(9))
    assert calls == [9, 9]


def test_an_engine_that_dies_of_everything_is_given_up() -> None:
    engine = Engine(set(range(256)))
    with pytest.raises(ModelError, match="4 rows were tried one by one") as raised:
        run_isolated(range(256), engine.attempt, "sample a")
    assert raised.value.code == "WRPO-E003"
    assert engine.num_starts < 24


def test_too_few_results_are_an_error() -> None:
    with pytest.raises(ModelError, match="gave 2 results for 3 rows") as raised:
        run_isolated([1, 2, 3], lambda rows: list(rows)[:-1], "sample a")
    assert raised.value.code == "WRPO-E005"
