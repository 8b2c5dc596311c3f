"""Selection against sets worked out by hand."""

import itertools
import math
from collections.abc import Iterable

import pytest

from wrpo_ray import selection
from wrpo_ray.config import RowsConfig
from wrpo_ray.schema import ScoredResponse
from wrpo_ray.selection import TargetPair, response_code

ROWS = RowsConfig()


def best_source(rows: Iterable[ScoredResponse], order: list[str]) -> ScoredResponse | None:
    return selection.best_source(rows, order, ROWS)


def target_pair(rows: Iterable[ScoredResponse]) -> TargetPair | None:
    return selection.target_pair(rows, ROWS)


def response(source: str, sample_index: int, reward: float, text: str | None = None) -> ScoredResponse:
    text = f"{source}{sample_index}" if text is None else text
    return ScoredResponse("p", source, sample_index, text, "stop", 1, reward)


def test_best_over_all_sources() -> None:
    rows = [response("a", 0, 0.1), response("a", 1, 0.7), response("b", 0, 0.9), response("b", 1, -2.0)]
    chosen = best_source(rows, ["a", "b"])
    assert chosen is not None
    assert (chosen.source, chosen.sample_index, chosen.reward) == ("b", 0, 0.9)


def test_ties_go_to_the_source_listed_first_then_to_the_lowest_sample_in_any_order() -> None:
    rows = [response("a", 3, 1.0), response("a", 1, 1.0), response("b", 0, 1.0)]
    for order in itertools.permutations(rows):
        chosen = best_source(order, ["b", "a"])
        assert chosen is not None
        assert chosen.source == "b"
        chosen = best_source(order, ["a", "b"])
        assert chosen is not None
        assert (chosen.source, chosen.sample_index) == ("a", 1)


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_non_finite_reward_is_never_chosen_nor_rejected(broken: float) -> None:
    rows = [response("t", 0, broken), response("t", 1, 0.2), response("t", 2, 0.5)]
    for order in itertools.permutations(rows):
        chosen, pair = best_source(order, ["t"]), target_pair(order)
        assert chosen is not None
        assert pair is not None
        assert (chosen.sample_index, pair.chosen.sample_index, pair.rejected.sample_index) == (2, 2, 1)
    assert best_source([response("t", 0, broken)], ["t"]) is None
    assert target_pair([response("t", 0, broken)]) is None


def test_an_empty_response_is_never_chosen() -> None:
    rows = [response("t", 0, 9.0, " \n"), response("t", 1, 0.2), response("t", 2, 0.1)]
    pair = target_pair(rows)
    assert pair is not None
    assert (pair.chosen.sample_index, pair.rejected.sample_index) == (1, 2)


def test_target_pair_is_best_and_worst_with_ties_to_the_lowest_sample() -> None:
    pair = target_pair([response("t", index, reward) for index, reward in enumerate([0.5, 0.9, 0.1, 0.9, 0.1])])
    assert pair is not None
    assert (pair.chosen.sample_index, pair.rejected.sample_index) == (1, 2)


def test_no_pair_from_equal_rewards_or_equal_texts() -> None:
    assert target_pair([response("t", 0, 0.5), response("t", 1, 0.5)]) is None
    assert target_pair([response("t", 0, 0.5, "same"), response("t", 1, 0.6, "same")]) is None
    assert target_pair([response("t", 0, 0.5)]) is None
    assert target_pair([]) is None


@pytest.mark.parametrize(
    ("text", "finish_reason", "num_tokens", "reward", "code"),
    [
        ("fine", "stop", 3, 1.0, None),
        ("", "stop", 1, 1.0, "response_empty"),
        (" \n\t", "stop", 4, 1.0, "response_empty"),
        ("", "stop", 4, 1.0, "response_special_tokens_only"),
        ("never ends", "length", 9, 1.0, "response_cut"),
        ("fine", "stop", 3, math.nan, "reward_not_finite"),
    ],
)
def test_every_odd_response_has_one_code(
    text: str, finish_reason: str, num_tokens: int, reward: float, code: str | None
) -> None:
    assert response_code(ScoredResponse("p", "s", 0, text, finish_reason, num_tokens, reward)) == code


def test_cut_responses_are_left_out_on_request() -> None:
    cut = ScoredResponse("p", "s", 0, "cut", "length", 9, 5.0)
    assert best_source([cut], ["s"]) == cut
    assert selection.best_source([cut], ["s"], RowsConfig(response_cut="drop")) is None


def test_the_second_best_has_another_text_than_the_best_in_any_order() -> None:
    rows = [response("a", 0, 0.9, "x"), response("b", 1, 0.9, "x"), response("b", 0, 0.5), response("a", 1, 0.5)]
    for order in itertools.permutations(rows):
        ranked = selection.best_sources(order, ["a", "b"], ROWS, 2)
        assert [(each.source, each.sample_index) for each in ranked] == [("a", 0), ("a", 1)]
    assert len(selection.best_sources(rows[:2], ["a", "b"], ROWS, 2)) == 1
