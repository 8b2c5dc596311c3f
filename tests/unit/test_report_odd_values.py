"""Records and metrics whose own hash fits and that hold something else than a report shows: told by file and field."""

import hashlib
import json
import math
import shutil
from pathlib import Path

import pytest

from tests.report.synthetic_run import evaluation_by_contract, finished
from wrpo_ray.cli import main
from wrpo_ray.errors import StorageError
from wrpo_ray.report.folder import read_facts
from wrpo_ray.report.page import report_page
from wrpo_ray.storage.location import locate


def change(place: Path, dotted: str, value: object) -> None:
    """Put a value into a record of the run, and the record's own hash anew."""
    record = json.loads(place.read_text())
    record.pop("sha256")
    *parents, last = [int(part) if part.isdecimal() else part for part in dotted.split(".")]
    node = record
    for part in parents:
        node = node[part]
    node[last] = value
    digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode("ascii")).hexdigest()
    place.write_text(json.dumps({**record, "sha256": digest}))


@pytest.mark.parametrize(
    ("step", "field", "value"),
    [
        ("fuse", "summary.num_quadruples", "many"), ("fuse", "summary.num_prompts", None),
        ("fuse", "summary.num_prompts", 10**400), ("fuse", "summary.best_share", [1]),
        ("fuse", "summary.best_share.synthetic-phi", "x"), ("fuse", "summary.rows", 7),
        ("prompts", "summary.num_duplicates", {}), ("score-synthetic-phi", "summary.num_tokens", "x"),
        ("score-synthetic-phi", "summary.quarantined", {"code": []}), ("select_sft", "summary.best_share", "x"),
        ("evaluate", "summary.models", [1]), ("evaluate", "summary.models.fused.reward", None),
        ("evaluate", "summary.models.fused.gain.low", "x"),
        (None, "config.sources", [7]), (None, "config.sources.0", {}), (None, "config.prices.per_hour", {"H100": "x"}),
        (None, "plan", None), (None, "plan.stages", {"a": 1}), (None, "plan.stages.0.seconds", "x"),
        (None, "versions", 3),
    ],
)  # fmt: skip
def test_odd_values_whose_hash_fits_are_told_by_file_and_field(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], step: str | None, field: str, value: object
) -> None:
    run = finished(tmp_path / "a", num_prompts=12, num_steps=8)
    record, plan = tmp_path / "a" / "submissions" / "000001.json", str(tmp_path / "b")
    place = record if step is None else next((tmp_path / "a" / step).glob("*/manifest.json"))
    shutil.copytree(tmp_path / "a", plan)
    change(place, field, value)
    for command in (["report", str(run.folder)], ["compare", str(run.folder), plan, "--html", str(tmp_path / "c")]):
        assert main(command) == StorageError.exit_code
        told = capsys.readouterr().err
        assert str(place) in told
        assert field.rsplit(".", 1)[0] in told


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ({"step": "x"}, "step"), ({"step": -1}, "step"), ({"step": 10**400}, "step"), ({}, "step"),
        ({"step": 9, "num_tokens": "x"}, "num_tokens"), ({"step": 9, "rewards/accuracies": []}, "rewards/accuracies"),
        ([1], "it"), (3, "it"),
    ],
)  # fmt: skip
def test_odd_lines_of_metrics(tmp_path: Path, capsys: pytest.CaptureFixture[str], line: object, field: str) -> None:
    run = finished(tmp_path / "a", num_prompts=12, num_steps=8)
    place = next((tmp_path / "a" / "wrpo").glob("*/metrics.jsonl"))
    place.write_text(place.read_text() + json.dumps(line) + '\n{"step": 10, "loss": NaN, "grad_norm": 1e999}\n{"st')
    assert main(["report", str(run.folder)]) == StorageError.exit_code
    told = capsys.readouterr().err
    assert str(place) in told
    assert f": {field}: " in told


def test_metrics_that_are_no_numbers_any_more_are_shown(tmp_path: Path) -> None:
    finished(tmp_path / "a", num_prompts=12, num_steps=8)
    place = next((tmp_path / "a" / "wrpo").glob("*/metrics.jsonl"))
    diverged = json.dumps({"step": 9, "loss": math.nan, "rewards/accuracies": math.nan, "alpha": 10**400})
    place.write_text(place.read_text() + diverged + "\n")
    assert "<html" in report_page(read_facts(locate(tmp_path / "a")))


@pytest.mark.parametrize("content", ["[1]", "7", "{", '"format"'])
def test_evaluation_that_is_no_object(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str) -> None:
    run = finished(tmp_path / "a", num_prompts=12, num_steps=8, evaluation=evaluation_by_contract())
    place = next((tmp_path / "a" / "evaluate").glob("*/evaluation.json"))
    place.write_text(content)
    manifest = place.parent / "manifest.json"
    (index,) = [n for n, file in enumerate(json.loads(manifest.read_text())["files"]) if file["path"] == place.name]
    change(manifest, f"files.{index}.sha256", hashlib.sha256(content.encode()).hexdigest())
    change(manifest, f"files.{index}.num_bytes", len(content))
    assert main(["report", str(run.folder)]) == StorageError.exit_code
    assert "WRPO-S051" in capsys.readouterr().err
