"""Reference log-probs from the sampler: taken where they hold for what training sees, compared, refused when off."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import pytest
import ray.train.torch
import torch
from transformers import AutoModelForCausalLM

from tests import tiny
from tests.train import runs, two_ranks
from wrpo_ray.chat import ChatTokenizer
from wrpo_ray.errors import ModelError
from wrpo_ray.models import load_tokenizer
from wrpo_ray.schema import Quadruple, ReferenceLogps, ResponseWithLogps
from wrpo_ray.storage.location import Location, locate
from wrpo_ray.storage.tables import read_rows, write_rows
from wrpo_ray.train import launch, sampler_reference
from wrpo_ray.train import reference as module
from wrpo_ray.train.job import TrainJob
from wrpo_ray.train.ranks import Ranks
from wrpo_ray.train.sampler_reference import Compared, differences, require_close, special_ids, why_own_pass
from wrpo_ray.train.tokens import QUADRUPLE_RESPONSES, TokenTable

QUADRUPLES = runs.quadruples(10)
NUM_CHECKED = 2


class Sampler:
    """Stands for the engine: exact log-probs of any ids under the tiny model, and ids that no tokenizer would give."""

    def __init__(self, folder: Path) -> None:
        self.chat = ChatTokenizer(load_tokenizer(str(folder)))
        self.model = AutoModelForCausalLM.from_pretrained(folder).eval()

    def drawn(self, row: Quadruple, name: str, index: int, by_character: bool) -> ResponseWithLogps:
        text = getattr(row, name)
        ids = self.chat.encode_response(text)
        if by_character:
            ids = [one for character in text for one in self.chat.encode_response(character, finished=False)]
            ids.append(self.chat.end_token_id)
        logps = self.logps(row, ids)
        return ResponseWithLogps(row.prompt_id, "target-sft", index, text, ids, "stop", len(ids), logps)

    @torch.no_grad()
    def logps(self, row: Quadruple, ids: list[int]) -> float:
        prompt = self.chat.encode_prompt(row.messages)
        logits = self.model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
        return float(logits.log_softmax(-1).double().gather(1, torch.tensor(ids)[:, None]).sum())

    def all_drawn(self) -> list[ResponseWithLogps]:
        """Return y_wt and y_l of every quadruple; those of every other one in tokens of one character."""
        pairs = [(number, row, name) for number, row in enumerate(QUADRUPLES) for name in ("target_chosen", "rejected")]
        return [self.drawn(row, name, index % 2, number % 2 == 1) for index, (number, row, name) in enumerate(pairs)]


@pytest.fixture(scope="module")
def sampler(model: Path) -> Sampler:
    return Sampler(model)


def write_drawn(folder: Path, rows: list[ResponseWithLogps]) -> Location:
    place = locate(folder / "drawn")
    return runs.finish_step(place, write_rows(place, "data/rows.parquet", rows, ResponseWithLogps))


class Pass:
    """Runs the reference pass here, as one rank, and notes which responses it computes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, model: Path, quadruples: Location, folder: Path) -> None:
        self.model, self.quadruples, self.folder = model, quadruples, folder
        self.computed: list[tuple[str, str]] = []
        self.summary: dict[str, Any] = {}
        real = module.own_logps

        def own_logps(policy: Any, collate: Any, rows: Any, device: Any) -> Any:
            self.computed += [(row["prompt_id"], name) for row in rows for name in collate.responses]
            return real(policy, collate, rows, device)

        monkeypatch.setattr(module, "own_logps", own_logps)
        monkeypatch.setattr(module, "current_ranks", lambda: Ranks(0, 1, 0, 1))
        monkeypatch.setattr(ray.train.torch, "get_device", lambda: torch.device("cpu"))
        monkeypatch.setattr(launch, "fit_workers", lambda worker, job: worker(job.model_dump(mode="json")))
        monkeypatch.setattr(sampler_reference, "NUM_CHECKED_ROWS", NUM_CHECKED)

    def run(self, drawn: Location | None, out: str = "out", **wrpo: Any) -> dict[str, ReferenceLogps]:
        self.computed.clear()
        config = runs.make_config(self.model, wrpo={"num_workers": 1, **wrpo})
        place = locate(self.folder / out)
        result = launch.run_reference(config, str(self.model), self.quadruples, place, drawn)
        self.summary = dict(result.summary)
        return {row.prompt_id: row for row in read_rows(runs.finish_step(place, result=result), ReferenceLogps)}


@pytest.fixture
def one_pass(monkeypatch, model, quadruples, tmp_path) -> Pass:
    return Pass(monkeypatch, model, quadruples, tmp_path)


@pytest.mark.parametrize("share_prompts", [True, False])
def test_only_y_ws_is_computed_and_the_rest_is_what_the_sampler_said(one_pass, sampler, tmp_path, share_prompts):
    plain = one_pass.run(None, "plain", share_prompts=share_prompts)
    assert len(one_pass.computed) == 30
    drawn = sampler.all_drawn()
    rows = one_pass.run(write_drawn(tmp_path, drawn), share_prompts=share_prompts)
    in_pass = one_pass.computed[3 * NUM_CHECKED :]
    assert sorted(in_pass) == sorted((row.prompt_id, "source_chosen") for row in QUADRUPLES)
    said = {(row.prompt_id, row.text): row for row in drawn}
    for quadruple in QUADRUPLES:
        row, own = rows[quadruple.prompt_id], plain[quadruple.prompt_id]
        assert row.source_chosen_logps == pytest.approx(own.source_chosen_logps, abs=1e-4)
        for name in ("target_chosen", "rejected"):
            response = said[quadruple.prompt_id, getattr(quadruple, name)]
            assert getattr(row, f"{name}_logps") == response.logps
            assert getattr(row, f"{name}_num_tokens") == len(response.token_ids)
    # By character there are more tokens than the tokenizer makes of the text.
    assert sum(row.rejected_num_tokens for row in rows.values()) > sum(
        row.rejected_num_tokens for row in plain.values()
    )
    told = one_pass.summary["sampler"]
    assert told["num_from_sampler"] == 20
    assert told["num_with_other_ids"] == 10
    assert told["num_by_own_pass"] == {}
    assert told["check"]["num_compared"] == 2 * NUM_CHECKED
    # The same model in the same precision: rounding alone.
    assert 0 < told["check"]["max_nats_per_token"] < 1e-4


def test_what_training_sees_otherwise_is_left_to_our_own_pass_and_counted(one_pass, sampler, tmp_path):
    plain = one_pass.run(None, "plain")
    drawn = sampler.all_drawn()[4:]
    end, other = sampler.chat.end_token_id, sampler.chat.encode_prompt(QUADRUPLES[0].messages)[0]
    bad = {
        0: {"token_ids": [*drawn[0].token_ids[:-1], 5]},
        1: {"token_ids": [end, *drawn[1].token_ids]},
        4: {"token_ids": drawn[4].token_ids * 30},
        5: {"logps": float("nan")},
    }
    assert other in special_ids(sampler.chat)
    drawn = [dataclasses.replace(row, **bad.get(number, {})) for number, row in enumerate(drawn)]
    rows = one_pass.run(write_drawn(tmp_path, drawn))
    assert one_pass.summary["sampler"]["num_by_own_pass"] == {
        "not_found": 4, "other_end": 1, "control_tokens": 1, "cut_at_max_length": 1, "not_finite": 1,
    }  # fmt: skip
    assert one_pass.summary["sampler"]["num_from_sampler"] == 12
    left = {(row.prompt_id, name) for row in QUADRUPLES[:2] for name in ("target_chosen", "rejected")}
    left |= {(row.prompt_id, name) for row in (QUADRUPLES[2], QUADRUPLES[4]) for name in ("target_chosen", "rejected")}
    in_pass = set(one_pass.computed[3 * NUM_CHECKED :])
    assert in_pass == left | {(row.prompt_id, "source_chosen") for row in QUADRUPLES}
    for prompt_id, name in left:
        own = getattr(plain[prompt_id], f"{name}_logps")
        assert getattr(rows[prompt_id], f"{name}_logps") == pytest.approx(own, abs=1e-4)
        assert getattr(rows[prompt_id], f"{name}_num_tokens") == getattr(plain[prompt_id], f"{name}_num_tokens")


def test_a_sampler_that_is_off_stops_the_pass_before_any_shard(one_pass, sampler, tmp_path, caplog):
    # As of an engine that tells the log-probs after a temperature of 0.8.
    drawn = [dataclasses.replace(row, logps=row.logps / 0.8) for row in sampler.all_drawn()]
    place = write_drawn(tmp_path, drawn)
    with pytest.raises(ModelError, match=r"differ from those of our own pass by [\d.]+ nats per token") as caught:
        one_pass.run(place)
    assert caught.value.code == "WRPO-T020"
    assert len(one_pass.computed) == 3 * NUM_CHECKED
    assert (locate(tmp_path / "out") / "commits").walk() == []
    with caplog.at_level(logging.INFO):
        rows = one_pass.run(place, reference_check_tolerance=5.0)
    assert len(rows) == 10
    assert one_pass.summary["sampler"]["check"]["mean_nats_per_token"] > 0.1
    assert "mean_nats_per_token" in caplog.text


def test_a_pass_without_a_comparison_is_compared_before_it_counts(one_pass, sampler, tmp_path):
    place = write_drawn(tmp_path, sampler.all_drawn())
    one_pass.run(place)
    # All shards are committed, and the process that compares was killed before it had noted anything.
    out = locate(tmp_path / "out")
    (out / "manifest.json").delete()
    (out / "scratch" / sampler_reference.CHECK_FILE).delete()
    one_pass.run(place)
    assert len(one_pass.computed) == 3 * NUM_CHECKED
    assert one_pass.summary["sampler"]["check"]["num_compared"] == 2 * NUM_CHECKED


@pytest.mark.slow
def test_ranks_of_a_sharded_model_keep_step(model, sampler, tmp_path, monkeypatch):
    ranks: list[dict[str, int]] = []

    def fit_here(_: Any, job: TrainJob) -> None:
        (tmp_path / "job.json").write_text(job.model_dump_json())
        ranks.extend(two_ranks.start("tests.train.reference_ranks", tmp_path))

    monkeypatch.setattr(launch, "fit_workers", fit_here)
    fields = {"num_workers": two_ranks.NUM_RANKS, "zero_stage": 3, "micro_batch_tokens": 1}
    config = runs.make_config(model, wrpo={**fields, "deepspeed": two_ranks.NOTHING_WHOLE})
    drawn = sampler.all_drawn()
    place = write_drawn(tmp_path, [row for number, row in enumerate(drawn) if number not in (0, 5)])
    quadruples, out = runs.write_quadruples(tmp_path / "quadruples", 10), locate(tmp_path / "out")
    result = launch.run_reference(config, str(model), quadruples, out, place)
    rows = {row.prompt_id: row for row in read_rows(runs.finish_step(out, result=result), ReferenceLogps)}
    said = {(row.prompt_id, row.text): row.logps for row in drawn}
    for row in QUADRUPLES:
        for name in ("target_chosen", "rejected"):
            expected = said[row.prompt_id, getattr(row, name)]
            assert getattr(rows[row.prompt_id], f"{name}_logps") == pytest.approx(expected, abs=1e-4)
    # Ten whole rows by both, then those of the larger half: two ranks have five shards of two rows.
    assert [rank["passes"] for rank in ranks] == [10 + 6, 10 + 6]
    assert result.summary["sampler"]["num_by_own_pass"] == {"not_found": 2}
    assert result.summary["sampler"]["check"]["num_compared"] == 18


def test_training_goes_through_the_tokens_that_were_drawn(one_pass, sampler, tmp_path, monkeypatch):
    drawn = sampler.all_drawn()
    place = write_drawn(tmp_path, drawn)
    rows = one_pass.run(place)
    jobs: list[TrainJob] = []

    def stop(job: TrainJob) -> None:
        jobs.append(job)
        raise InterruptedError

    monkeypatch.setattr(launch, "fit", stop)
    config = runs.make_config(one_pass.model)
    with pytest.raises(InterruptedError):
        launch.run_wrpo(
            config, str(one_pass.model), one_pass.quadruples, locate(tmp_path / "out"), locate(tmp_path / "wrpo"), place
        )
    table = TokenTable(jobs[0].scratch, jobs[0].tokens, QUADRUPLE_RESPONSES)
    said = {(row.prompt_id, row.text): row.token_ids for row in drawn}
    texts = {row.prompt_id: row for row in QUADRUPLES}
    for row in table.rows(range(10)):
        for name in ("target_chosen", "rejected"):
            assert row[name] == said[row["prompt_id"], getattr(texts[row["prompt_id"]], name)]
            assert row[f"{name}_logps"] == getattr(rows[row["prompt_id"]], f"{name}_logps")


def test_of_two_draws_of_one_text_the_first_is_taken(one_pass, sampler, tmp_path):
    drawn = sampler.all_drawn()
    again = dataclasses.replace(drawn[0], sample_index=9, logps=-1e6)
    cut = dataclasses.replace(drawn[2], finish_reason="length", logps=-1e6, sample_index=-1)
    rows = one_pass.run(write_drawn(tmp_path, [again, cut, *drawn]))
    assert rows[drawn[0].prompt_id].target_chosen_logps == drawn[0].logps
    assert rows[drawn[2].prompt_id].target_chosen_logps == drawn[2].logps


END, SPECIAL = 2, frozenset({0, 1, 2})


@pytest.mark.parametrize(
    ("ids", "reason", "logps", "expected"),
    [
        ([7, 8, END], "stop", -1.0, None),
        ([END], "stop", -1.0, None),
        ([7, 8], "length", -1.0, None),
        ([7] * 9 + [END], "stop", -1.0, None),
        ([7] * 10 + [END], "stop", -1.0, "cut_at_max_length"),
        ([7, 8], "stop", -1.0, "other_end"),
        ([], "stop", -1.0, "other_end"),
        ([7, 1], "stop", -1.0, "other_end"),
        ([7, END, END], "stop", -1.0, "control_tokens"),
        ([7, 1, END], "stop", -1.0, "control_tokens"),
        ([7, END], "length", -1.0, "control_tokens"),
        ([7, END], "stop", float("-inf"), "not_finite"),
    ],
)
def test_what_holds_for_training(ids, reason, logps, expected):
    response = ResponseWithLogps("p", "m", 0, "text", ids, reason, len(ids), logps)
    assert why_own_pass(response, 10, END, SPECIAL, max_length=20) == expected


def test_nothing_drawn_holds_for_nothing():
    assert why_own_pass(None, 10, END, SPECIAL, max_length=20) == "not_found"


def test_one_response_far_off_is_found_among_many_and_short_ones_may_be_rounded():
    fine = [Compared(f"p{n}", "rejected", 100, -50.0, -50.0) for n in range(63)]
    require_close(fine, 0.02)
    require_close([*fine, Compared("short", "rejected", 1, -1.0, -1.1)], 0.02)
    for own in (-80.0, None):
        with pytest.raises(ModelError, match=r"for rejected of wrong, at most 0\.2 may be"):
            require_close([*fine, Compared("wrong", "rejected", 100, -50.0, own)], 0.02)
    assert differences([Compared("p", "rejected", 4, -2.0, -3.0), Compared("q", "rejected", 12, -2.0, -2.0)]) == {
        "num_compared": 2, "mean_nats": 0.5, "max_nats": 1.0, "mean_nats_per_token": 1 / 16, "max_nats_per_token": 0.25,
    }  # fmt: skip
    assert differences([]) == {"num_compared": 0}


def test_the_tiny_tokenizer_gives_characters_tokens_of_their_own():
    """What these tests rest on: a text in other ids than the tokenizer's."""
    chat = ChatTokenizer(tiny.chatml_tokenizer())
    text = "quick brown"
    ids = [one for character in text for one in chat.encode_response(character, finished=False)]
    assert ids != chat.encode_response(text, finished=False)
    assert chat.tokenizer.decode(ids) == text
