"""`wrpo-ray export` of a run that lies in an object store."""

from pathlib import Path

import pytest
from datasets import load_dataset

from tests.storage.s3_server import S3Server
from tests.unit.test_export_run import ROWS, export, finished_run
from wrpo_ray.storage.location import locate


def test_model_and_data_come_to_this_machine(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WRPO_RAY_CACHE", str(tmp_path / "node"))
    run = f"s3://{s3.new_bucket()}/runs/r"
    finished_run(tmp_path, locate(run))
    out = tmp_path / "out"
    assert export(run, out) == 0
    assert (out / "model" / "model.safetensors").read_bytes() == b"weights"
    read = load_dataset(str(out / "dataset"), split="train", cache_dir=str(tmp_path / "cache"))
    assert [row["prompt_id"] for row in read.to_list()] == [row.prompt_id for row in ROWS]
