"""Any record of a run may hold anything: it is told by name, and after a repair the run comes to its end."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import strategies as st

from tests.fuzz.case import fuzzed, outcome
from tests.fuzz.mutation import changed_bytes, changed_json, json_bytes
from tests.storage.sample_run import SampleRun, contents, finished
from wrpo_ray import run_inspect, run_status
from wrpo_ray.errors import WrpoError
from wrpo_ray.storage.location import locate
from wrpo_ray.submissions import last_submission

CASES = itertools.count()
# Cut in the middle of sampling, and done.
KINDS = ("begun", "done")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for kind, until in zip(KINDS, ("sample", "export"), strict=True):
        run = finished(folder / kind, until)
        record = {"source": "m2", "code": "WRPO-M001", "error": "no weights", "epoch": 1}
        (run.layout.broken_sources / "m2.json").create_sealed(record)
    (SampleRun(locate(folder / "begun")).at("sample") / "manifest.json").delete()
    return folder


def command(module: ModuleType, *arguments: str) -> int:
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    with contextlib.redirect_stdout(io.StringIO()):
        return module.main(parser.parse_args(arguments))


def records(runs: Path, kind: str) -> list[str]:
    return sorted(str(path.relative_to(runs / kind)) for path in (runs / kind).rglob("*.json"))


def resealed(record: Any) -> bytes:
    """Return a record with the hash that fits it, as somebody who knows the format would write it."""
    if not isinstance(record, dict):
        return json_bytes(record)
    rest = {name: value for name, value in record.items() if name != "sha256"}
    text = json.dumps(rest, sort_keys=True)
    return json_bytes({**rest, "sha256": hashlib.sha256(text.encode("ascii")).hexdigest()})


def copied(runs: Path, kind: str, record: str, content: bytes) -> Path:
    """Return a copy of a run in which one record is `content`."""
    run = runs / f"case-{next(CASES)}"
    shutil.copytree(runs / kind, run)
    (run / record).write_bytes(content)
    return run


def check(run: Path, whole: dict[str, str] | None) -> None:
    """Look at the run, go on with it, repair it and go on again; the last one must work and change no result."""
    steps: list[Callable[[], Any]] = [
        lambda: command(run_status, str(run)),
        lambda: command(run_status, str(run), "--json"),
        lambda: command(run_inspect, str(run), "sample"),
        lambda: SampleRun(locate(run)).run(),
        lambda: last_submission(SampleRun(locate(run)).layout.submissions),
        lambda: command(run_inspect, str(run)),
        lambda: command(run_inspect, str(run), "--repair"),
    ]
    for step in steps:
        outcome(step)
    assert not isinstance(outcome(lambda: SampleRun(locate(run)).run()), WrpoError)
    assert outcome(lambda: command(run_inspect, str(run))) == 0
    assert contents(run) == whole or whole is None
    shutil.rmtree(run)


@fuzzed(8, data=st.data(), kind=st.sampled_from(KINDS))
def test_a_record_with_another_value_and_the_hash_that_fits(runs: Path, data: st.DataObject, kind: str) -> None:
    record = data.draw(st.sampled_from(records(runs, kind)))
    value = json.loads((runs / kind / record).read_bytes())
    value.pop("sha256", None)
    changed = data.draw(st.one_of(changed_json([value]), st.sampled_from([[], 7, None, "x", {}, {"a": 1}])))
    check(copied(runs, kind, record, resealed(changed)), None)


@fuzzed(8, data=st.data(), kind=st.sampled_from(KINDS))
def test_a_record_with_other_bytes(runs: Path, data: st.DataObject, kind: str) -> None:
    """Its own hash tells every change that means anything, so the results are those of a run without it."""
    record = data.draw(st.sampled_from(records(runs, kind)))
    content = data.draw(changed_bytes([(runs / kind / record).read_bytes()]))
    check(copied(runs, kind, record, content), contents(runs / "done"))
