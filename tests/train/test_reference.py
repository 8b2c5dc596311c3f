"""The reference pass: shards that are committed are not computed again, and numbers that are none stop it."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from tests.train import runs
from wrpo_ray.errors import DataError, ModelError
from wrpo_ray.schema import ReferenceLogps
from wrpo_ray.storage.location import Location, locate
from wrpo_ray.storage.tables import read_rows
from wrpo_ray.train import reference as reference_module
from wrpo_ray.train.launch import run_reference

FIELDS = {"num_workers": 2, "micro_batch_size": 1, "max_failures": 0}


def interrupted(notes: Path, die_after: int | None = None, not_finite: bool = False) -> Any:
    """Return a worker that notes what it computes; rank 1 is killed after so many shards, or meets a bad number."""

    def worker(raw_job: dict[str, Any]) -> dict[str, Any]:
        import ray.train

        rank = ray.train.get_context().get_world_rank()
        real = reference_module.shard_rows
        done: list[str] = []

        def shard_rows(*arguments: Any) -> list[ReferenceLogps]:
            if rank == 1 and die_after is not None and len(done) >= die_after:
                os.kill(os.getpid(), signal.SIGKILL)
            rows = real(*arguments)
            done.extend(row.prompt_id for row in rows)
            with (notes / f"rank-{rank}.jsonl").open("a", encoding="utf-8") as stream:
                stream.write(json.dumps([row.prompt_id for row in rows]) + "\n")
            if not_finite and rank == 1 and len(done) == len(rows):
                rows[0] = replace(rows[0], rejected_logps=float("-inf"))
            return rows

        reference_module.shard_rows = shard_rows
        return reference_module.reference_worker(raw_job)

    return worker


def computed(notes: Path) -> list[str]:
    return [item for path in notes.glob("*.jsonl") for line in path.open() for item in json.loads(line)]


def run(model: Path, quadruples: Location, out: Location, worker: Any) -> list[ReferenceLogps]:
    with patch("wrpo_ray.train.launch.reference_worker", worker):
        result = run_reference(runs.make_config(model, wrpo=FIELDS), str(model), quadruples, out)
    return read_rows(runs.finish_step(out, result=result), ReferenceLogps)


def test_a_killed_pass_goes_on_with_the_shards_that_are_left(local_ray, model, quadruples, reference, tmp_path):
    notes, out = tmp_path, locate(tmp_path / "out")
    # Ten rows in five shards: rank 1 ends its first of two and dies in its second; rank 0 may have been stopped early.
    with pytest.raises(ModelError, match="reference: training workers failed 1 times"):
        run(model, quadruples, out, interrupted(notes, die_after=2))
    committed = len(list((out / "commits").walk()))
    assert 1 <= committed < 5
    before = len(computed(notes))
    rows = run(model, quadruples, out, interrupted(notes))
    # What was committed is not computed again: the second pass did the rest and nothing else.
    assert len(computed(notes)) - before == 10 - 2 * committed
    expected = {row.prompt_id: row for row in read_rows(reference, ReferenceLogps)}
    assert [row.prompt_id for row in rows] == [row.prompt_id for row in runs.quadruples(10)]
    for row in rows:
        assert row.rejected_logps == pytest.approx(expected[row.prompt_id].rejected_logps, abs=1e-4)
    assert not [place for place in (out / "data").walk() if "shard-" not in place.name]


def test_numbers_that_are_none_are_named_and_tried_again(local_ray, model, quadruples, tmp_path):
    out = locate(tmp_path / "out")
    with pytest.raises(DataError, match=r"^1 rows have reference log-probs that are not finite: \w+$") as raised:
        run(model, quadruples, out, interrupted(tmp_path, not_finite=True))
    assert raised.value.code == "WRPO-T006"
    assert raised.value.message.endswith(tuple(row.prompt_id for row in runs.quadruples(10)))
    assert len(list((out / "commits").walk())) == 4
    assert len(run(model, quadruples, out, interrupted(tmp_path))) == 10
