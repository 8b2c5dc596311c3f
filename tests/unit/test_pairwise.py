"""Win rates worked out by hand, intervals that cover, and what is said about them."""

import numpy as np
import pytest

from wrpo_ray.evaluate.bootstrap import Interval, mean_interval, resamples
from wrpo_ray.evaluate.pairwise import Answered, Compared, Outcome, compared, pair_entry
from wrpo_ray.evaluate.significance import sign_test, verdict


def answered(values: dict[str, float], lengths: dict[str, float] | None = None) -> Answered:
    return Answered(values, lengths or dict.fromkeys(values, 10.0), len(values), 5 * len(values))


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
    assert verdict(5, 0, Interval(1.0, 1.0)) == "no difference can be seen"
    assert verdict(6, 0, Interval(1.0, 1.0)) == "better"
    assert verdict(0, 6, Interval(0.0, 0.0)) == "worse"
    assert verdict(60, 40, Interval(0.499, 0.7)) == "no difference can be seen"


def test_sentences() -> None:
    won = pair_entry(of_preferences(*[1.0] * 30, *[0.5] * 4, *[0.0] * 6), 400, 1)
    low, high = f"{100 * won['low']:.1f}", f"{100 * won['high']:.1f}"
    expected = f"fused beats target-sft on 80.0 % of 40 prompts (95 % interval {low} to {high}): better"
    assert won["words"] == expected
    lost = pair_entry(of_preferences(0.0), 50, 1)
    assert lost["words"].startswith("fused beats target-sft on 0.0 % of 1 prompt (")
    assert lost["words"].endswith(": no difference can be seen")
    unsure = pair_entry(of_preferences(1.0, q="cut", r="cut", s="silent"), 50, 1)
    assert unsure["num_undecided"] == 3
    assert unsure["words"].endswith("; undecided and left out: 2 cut, 1 silent")


def test_a_pair_without_a_decided_prompt_has_no_rates() -> None:
    entry = pair_entry(of_preferences(q="cut"), 50, 1)
    assert entry["win_rate"] is entry["low"] is entry["length_controlled_high"] is None
    said = "fused and target-sft cannot be compared: no prompt was decided; undecided and left out: 1 cut"
    assert entry["words"] == said
