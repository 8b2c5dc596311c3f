"""Win rates worked out by hand, intervals that cover, and what is said about them."""

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wrpo_ray.evaluate.bootstrap import Interval, mean_interval, resamples
from wrpo_ray.evaluate.pair_entries import pair_entries
from wrpo_ray.evaluate.pairwise import Answered, Compared, Outcome, compared
from wrpo_ray.evaluate.significance import holm, sign_test, verdict


def answered(values: dict[str, float], lengths: dict[str, float] | None = None) -> Answered:
    return Answered(values, lengths or dict.fromkeys(values, 10.0), len(values), 5 * len(values))


def pair_entry(pair: Compared, num_bootstrap: int, seed: int) -> dict[str, Any]:
    (entry,) = pair_entries([pair], num_bootstrap, seed)
    return entry


def of_preferences(*preferences: float, **undecided: str) -> Compared:
    outcomes = {f"p{number}": Outcome(value, 0.0) for number, value in enumerate(preferences)}
    return Compared("fused", "target-sft", "judge", outcomes, undecided)


def test_a_win_rate_by_hand() -> None:
    ours = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 0.0, "mine": 9.0}
    theirs = {"a": 0.5, "b": 2.0, "c": 2.9, "d": 4.0, "theirs": 9.0}
    pair = compared("fused", "t", "reward", {"fused": answered(ours), "t": answered(theirs)})
    # a and c won, b tied, d lost; what one of them alone has answered does not count.
    assert {name: outcome.preference for name, outcome in pair.outcomes.items()} == {"a": 1, "b": 0.5, "c": 1, "d": 0}
    entry = pair_entry(pair, num_bootstrap=200, seed=1)
    assert (entry["num_prompts"], entry["wins"], entry["ties"], entry["losses"]) == (4, 2, 1, 1)
    assert entry["win_rate"] == pytest.approx(2.5 / 4)
    assert 0 <= entry["low"] <= entry["win_rate"] <= entry["high"] <= 1
    # All answers are equally long: there is nothing to control for.
    assert entry["length_controlled_win_rate"] is None
    assert (entry["position_bias"], entry["num_undecided"]) == (None, 0)
    assert pair_entry(pair, num_bootstrap=200, seed=1) == entry


def test_the_other_way_round_is_the_complement() -> None:
    generator = np.random.default_rng(3)
    names = [f"p{number}" for number in range(60)]
    models = {
        model: answered(
            dict(zip(names, generator.integers(0, 4, 60).astype(float).tolist(), strict=True)),
            dict(zip(names, generator.integers(10, 90, 60).astype(float).tolist(), strict=True)),
        )
        for model in ("a", "b")
    }
    forward = pair_entry(compared("a", "b", "verifier", models), 500, 7)
    back = pair_entry(compared("b", "a", "verifier", models), 500, 7)
    assert (forward["wins"], forward["losses"]) == (back["losses"], back["wins"])
    for name, low, high in (("win_rate", "low", "high"), ("length_controlled_win_rate",) * 3):
        assert forward[name] == pytest.approx(1 - back[name], abs=1e-6)
        assert forward[low] == pytest.approx(1 - back[high], abs=1e-6)
    assert forward["length_controlled_low"] == pytest.approx(1 - back["length_controlled_high"], abs=1e-6)


@pytest.mark.parametrize("win_rate", [0.5, 0.7])
def test_intervals_cover_the_true_win_rate_about_95_times_in_100(win_rate: float) -> None:
    generator, covered = np.random.default_rng(0), 0
    tie = 0.2
    for seed in range(300):
        draws = generator.random(150)
        values = np.where(draws < tie, 0.5, (draws < tie + win_rate - tie / 2).astype(float))
        low, high = mean_interval(values, num_bootstrap=400, seed=seed)
        covered += low <= win_rate <= high
    # 285 expected; 273 to 297 is three standard deviations.
    assert 270 <= covered <= 297


def test_resamples_in_pieces_are_all_there(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.concatenate(list(resamples(10, 25, seed=5)))
    monkeypatch.setattr("wrpo_ray.evaluate.bootstrap._MAX_DRAWS", 40)
    pieces = list(resamples(10, 25, seed=5))
    assert [len(piece) for piece in pieces] == [4] * 6 + [1]
    assert np.array_equal(np.concatenate(pieces), whole)


def test_sign_test_by_hand() -> None:
    assert sign_test(5, 0) == pytest.approx(2 / 32)
    assert sign_test(0, 6) == pytest.approx(2 / 64)
    # 2 * (C(10, 0) + C(10, 1) + C(10, 2)) / 2^10
    assert sign_test(8, 2) == pytest.approx(112 / 1024)
    assert sign_test(4, 4) == sign_test(0, 0) == 1.0
    # Far in the tail, and exact where floats would run out.
    assert sign_test(3000, 1000) < 1e-200


def test_words_need_more_than_a_handful_of_prompts() -> None:
    assert verdict(sign_test(5, 0), Interval(1.0, 1.0)) == "no difference can be seen"
    assert verdict(sign_test(6, 0), Interval(1.0, 1.0)) == "better"
    assert verdict(sign_test(0, 6), Interval(0.0, 0.0)) == "worse"
    assert verdict(0.001, Interval(0.499, 0.7)) == "no difference can be seen"


def test_holm_as_statsmodels_has_it() -> None:
    """Of statsmodels 0.14, multipletests(..., method="holm"), which is no package of ours."""
    assert holm([0.01, 0.02, 0.03, 0.04, 0.05]) == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])
    assert holm([0.04, 0.001, 0.04, 0.9]) == pytest.approx([0.12, 0.004, 0.12, 0.9])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_closed_test_of_bonferroni(p_values: list[float]) -> None:
    """A comparison may be called significant when every set of comparisons that it is one of is so by Bonferroni."""
    positions = range(len(p_values))
    sets = [each for size in positions for each in combinations(positions, size + 1)]
    closed = [
        max(min(1.0, len(each) * min(p_values[one] for one in each)) for each in sets if position in each)
        for position in positions
    ]
    assert holm(p_values) == pytest.approx(closed)


def test_of_many_comparisons_that_say_nothing_hardly_one_is_called_a_difference() -> None:
    """Each alone would be wrong once in twenty (less, as the test is exact): of ten, some in a fourth of all runs."""
    generator, alone, corrected = np.random.default_rng(0), 0, 0
    for _ in range(400):
        wins = generator.binomial(200, 0.5, 10)
        p_values = [sign_test(int(won), 200 - int(won)) for won in wins]
        alone, corrected = alone + (min(p_values) <= 0.05), corrected + (min(holm(p_values)) <= 0.05)
    # At most 20 expected; 33 is three standard deviations more.
    assert corrected <= 33
    assert alone > 80


def test_several_pairs_are_corrected_for_being_several() -> None:
    """40 wins of 60 are a difference alone, and none as one of six; what was not decided is no comparison."""
    clear, close = of_preferences(*[1.0] * 50, *[0.0] * 10), of_preferences(*[1.0] * 40, *[0.0] * 20)
    alone = pair_entry(close, 400, 1)
    assert alone["p_value"] == alone["p_value_corrected"] == pytest.approx(sign_test(40, 20))
    assert alone["words"].endswith(": better (sign test: p = 0.013)")
    entries = pair_entries([close, clear, of_preferences(q="cut"), *[of_preferences(1.0, 0.0)] * 4], 400, 1)
    assert [entry["p_value_corrected"] for entry in entries] == pytest.approx(
        [5 * sign_test(40, 20), 6 * sign_test(50, 10), None, *[1.0] * 4]
    )
    assert entries[0]["words"].endswith(
        ": no difference can be seen (sign test: p = 0.067 as one of 6 comparisons, p = 0.013 alone)"
    )
    assert ": better (sign test: p < 0.0001, also as one of 6 comparisons)" in entries[1]["words"]
    assert entries[2]["p_value"] is None


def test_sentences() -> None:
    won = pair_entry(of_preferences(*[1.0] * 30, *[0.5] * 4, *[0.0] * 6), 400, 1)
    low, high = f"{100 * won['low']:.1f}", f"{100 * won['high']:.1f}"
    expected = f"fused beats target-sft on 80.0 % of 40 prompts (95 % interval {low} to {high}): better"
    expected += " (sign test: p < 0.0001)"
    assert won["words"] == expected
    lost = pair_entry(of_preferences(0.0), 50, 1)
    assert lost["words"].startswith("fused beats target-sft on 0.0 % of 1 prompt (")
    assert lost["words"].endswith(": no difference can be seen (sign test: p = 1)")
    unsure = pair_entry(of_preferences(1.0, q="cut", r="cut", s="silent"), 50, 1)
    assert unsure["num_undecided"] == 3
    assert unsure["words"].endswith("; undecided and left out: 2 cut, 1 silent")


def test_a_pair_without_a_decided_prompt_has_no_rates() -> None:
    entry = pair_entry(of_preferences(q="cut"), 50, 1)
    assert entry["win_rate"] is entry["low"] is entry["length_controlled_high"] is None
    said = "fused and target-sft cannot be compared: no prompt was decided; undecided and left out: 1 cut"
    assert entry["words"] == said
