"""The reference pass: shards that are committed are not computed again, and numbers that are none stop it.

In this process, as one rank; the fixture `reference` is made by two workers of Ray Train.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray.train.torch
import torch

from tests.train import runs
from wrpo_ray.errors import DataError, StorageError
from wrpo_ray.schema import Quadruple, ReferenceLogps, to_table
from wrpo_ray.storage.ledger import commit, planned
from wrpo_ray.storage.location import Location, locate
from wrpo_ray.storage.tables import read_rows, write_rows
from wrpo_ray.train import launch
from wrpo_ray.train import reference as module
from wrpo_ray.train.ranks import Ranks


class CrashError(Exception):
    """The process is gone."""


class Pass:
    """Runs the pass here and notes the rows of every shard that it computes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, model: Path, quadruples: Location, out: Location) -> None:
        self.model, self.quadruples, self.out = model, quadruples, out
        self.computed: list[list[str]] = []
        self.crash_at: int | None = None
        self.not_finite_at: int | None = None
        real = module.shard_rows

        def shard_rows(*arguments: Any) -> list[ReferenceLogps]:
            if self.crash_at == len(self.computed):
                raise CrashError
            rows = real(*arguments)
            if self.not_finite_at == len(self.computed):
                rows[0] = replace(rows[0], rejected_logps=float("-inf"))
            self.computed.append([row.prompt_id for row in rows])
            return rows

        monkeypatch.setattr(module, "shard_rows", shard_rows)
        monkeypatch.setattr(module, "current_ranks", lambda: Ranks(0, 1, 0, 1))
        monkeypatch.setattr(ray.train.torch, "get_device", lambda: torch.device("cpu"))
        monkeypatch.setattr(launch, "fit_workers", lambda worker, job: worker(job.model_dump(mode="json")))

    def run(self) -> list[ReferenceLogps]:
        config = runs.make_config(self.model, wrpo={"num_workers": 1, "micro_batch_tokens": 1})
        result = launch.run_reference(config, str(self.model), self.quadruples, self.out)
        return read_rows(runs.finish_step(self.out, result=result), ReferenceLogps)


@pytest.fixture
def one_pass(monkeypatch, model, quadruples, tmp_path) -> Pass:
    return Pass(monkeypatch, model, quadruples, locate(tmp_path))


IDS = {row.prompt_id for row in runs.quadruples(10)}


def test_a_pass_that_was_cut_goes_on_with_the_shards_that_are_left(one_pass, reference):
    one_pass.crash_at = 2
    with pytest.raises(CrashError):
        one_pass.run()
    done, one_pass.computed = one_pass.computed, []
    one_pass.crash_at = None
    rows = one_pass.run()
    # Four shards of ten rows: two before the crash, and then the other two and nothing else.
    assert [len(part) for part in (done, one_pass.computed)] == [2, 2]
    everything = [item for part in (*done, *one_pass.computed) for item in part]
    assert len(everything) == 10
    assert set(everything) == {row.prompt_id for row in rows} == IDS
    expected = {row.prompt_id: row for row in read_rows(reference, ReferenceLogps)}
    for row in rows:
        assert row.rejected_logps == pytest.approx(expected[row.prompt_id].rejected_logps, abs=1e-4)


def test_a_finished_pass_needs_no_worker(one_pass, monkeypatch):
    one_pass.run()
    one_pass.crash_at = len(one_pass.computed)
    monkeypatch.setattr(launch, "fit_workers", None)
    assert len(one_pass.run()) == 10


def test_numbers_that_are_none_are_named_and_tried_again(one_pass):
    one_pass.not_finite_at = 1
    with pytest.raises(DataError, match=r"^1 rows have reference log-probs that are not finite: \w+$") as raised:
        one_pass.run()
    assert raised.value.code == "WRPO-T006"
    assert raised.value.message.rsplit(" ", 1)[1] == one_pass.computed[1][0]
    assert len((one_pass.out / "commits").walk()) == 3
    one_pass.not_finite_at = None
    assert len(one_pass.run()) == 10
    assert len(one_pass.computed) == 4 + 1


def test_a_pass_of_an_older_version_whose_plan_names_ids_starts_anew(one_pass, tmp_path):
    rows = sorted(runs.quadruples(10), key=lambda row: row.prompt_id)
    folder = locate(tmp_path / "sorted")
    one_pass.quadruples = runs.finish_step(folder, write_rows(folder, "data/rows.parquet", rows, Quadruple))
    one_pass.out = locate(tmp_path / "out")
    shard = planned(one_pass.out, [row.prompt_id for row in rows], 5)[0]
    old = [ReferenceLogps(item, -1.0, -1.0, -1.0, 1, 1, 1) for item in shard.items]
    commit(one_pass.out, shard, to_table(old, ReferenceLogps), shard.items)
    found = one_pass.run()
    assert [row.prompt_id for row in found] == [row.prompt_id for row in rows]
    assert [len(part) for part in one_pass.computed] == [3, 3, 3, 1]
    assert len((one_pass.out / "data").walk()) == len((one_pass.out / "commits").walk()) == 4


def test_a_plan_for_other_rows_is_refused(one_pass, tmp_path):
    one_pass.out = locate(tmp_path / "out")
    planned(one_pass.out, [*IDS, "one more"], 5)
    with pytest.raises(StorageError, match=r"plans 11 other items than the 10 of this run"):
        one_pass.run()
