"""Training through Ray Train and DeepSpeed against the same in plain torch: losses, weights, resume, stops."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.train import plain, runs
from tests.train.crashing import poison_second_gradient
from wrpo_ray.chat import ChatTokenizer
from wrpo_ray.errors import DataError, ModelError
from wrpo_ray.models import load_tokenizer
from wrpo_ray.schema import Quadruple, ReferenceLogps, SFTExample
from wrpo_ray.storage.location import Location, locate
from wrpo_ray.storage.manifest import FileEntry
from wrpo_ray.storage.tables import read_rows, write_rows
from wrpo_ray.train.fit import fit_workers
from wrpo_ray.train.launch import prepare, run_sft, run_wrpo
from wrpo_ray.train.metrics import read_metrics
from wrpo_ray.train.tokens import QUADRUPLE_RESPONSES, SFT_RESPONSES, tokenise

LOSS_TOLERANCE = 2e-5

SPREADS: dict[str, dict[str, Any]] = {
    "one-pass": {},
    "accumulation-4": {"micro_batch_tokens": 1, "activation_checkpointing": True},
    "two-workers": {"num_workers": 2, "micro_batch_tokens": 4096},
    "zero-1": {"num_workers": 2, "micro_batch_tokens": 1, "zero_stage": 1},
    "zero-2": {"num_workers": 2, "micro_batch_tokens": 1, "zero_stage": 2},
    "zero-3": {"num_workers": 2, "micro_batch_tokens": 1, "zero_stage": 3},
}


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(locate(folder / "metrics.jsonl"))]


def assert_files_are_as_listed(folder: Path, files: tuple[FileEntry, ...]) -> None:
    """All that lies in the folder, working state aside, is listed with its size and hash."""
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {"progress.json"}
    assert {entry.path for entry in files} == {name for name in found if not name.startswith("scratch/")}
    for entry in files:
        content = (folder / entry.path).read_bytes()
        assert (entry.num_bytes, entry.sha256) == (len(content), hashlib.sha256(content).hexdigest())


def assert_same_losses(found: list[float], expected: list[float]) -> None:
    print("largest relative difference", max(abs(a / b - 1.0) for a, b in zip(found, expected, strict=True)))
    assert found == pytest.approx(expected, rel=LOSS_TOLERANCE)


@pytest.fixture(scope="module")
def plain_sft(model: Path, examples: Location) -> tuple[Any, list[float]]:
    config = runs.make_config(model).sft
    rows, _ = tokenise(
        read_rows(examples, SFTExample), SFT_RESPONSES, ChatTokenizer(load_tokenizer(str(model))), config
    )
    trained = plain.load(model)
    return trained, plain.train(trained, rows, config, plain.sft_loss(trained))


def slow(*spreads: str) -> list[Any]:
    return [pytest.param(spread, marks=pytest.mark.slow) for spread in spreads]


@pytest.mark.parametrize("spread", ["one-pass", *slow("accumulation-4", "zero-2"), "zero-3"])
def test_sft_has_the_losses_and_weights_of_plain_torch(local_ray, model, examples, plain_sft, spread, tmp_path):
    config = runs.make_config(model, sft=SPREADS[spread])
    result = run_sft(config, str(model), examples, locate(tmp_path))
    trained, expected = plain_sft
    assert_same_losses(losses(tmp_path), expected)
    assert result.summary["num_steps"] == 3
    assert result.summary["loss"] == losses(tmp_path)[-1]
    assert (result.summary["num_attempts"], result.summary["checkpoints_skipped"]) == (1, [])
    assert_files_are_as_listed(tmp_path, result.files)
    reloaded = plain.load(tmp_path / "model")
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    torch.testing.assert_close(reloaded(ids).logits, trained(ids).logits, rtol=1e-4, atol=1e-4)
    assert load_tokenizer(str(tmp_path / "model")).chat_template == load_tokenizer(str(model)).chat_template


@pytest.fixture(scope="module")
def plain_wrpo(model: Path, quadruples: Location) -> list[float]:
    config = runs.make_config(model).wrpo
    chat = ChatTokenizer(load_tokenizer(str(model)))
    rows, _ = tokenise(read_rows(quadruples, Quadruple), QUADRUPLE_RESPONSES, chat, config)
    trained = plain.load(model)
    return plain.train(trained, rows, config, plain.wrpo_loss(trained, plain.load(model), config.beta, 0.5))


@pytest.mark.parametrize("spread", [*slow("accumulation-4", "two-workers"), "zero-1"])
def test_wrpo_has_the_losses_of_plain_torch(local_ray, model, quadruples, reference, plain_wrpo, spread, tmp_path):
    config = runs.make_config(model, wrpo=SPREADS[spread])
    run_wrpo(config, str(model), quadruples, reference, locate(tmp_path))
    assert_same_losses(losses(tmp_path), plain_wrpo)
    metrics = read_metrics(locate(tmp_path / "metrics.jsonl"))
    assert [line["alpha"] for line in metrics] == pytest.approx([0.0, 0.5 / 3, 1.0 / 3])
    assert metrics[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    for line in metrics:
        assert line["rewards/margins"] == pytest.approx(line["rewards/chosen"] - line["rewards/rejected"], abs=1e-5)


def sft_job(config, model, examples, out):
    return prepare(config, "sft", str(model), examples, locate(out))[0]


@pytest.mark.slow
@pytest.mark.parametrize("spread", ["one-pass", "zero-2", "zero-3"])
def test_a_gradient_that_is_not_finite_stops_the_run_before_the_step(local_ray, model, examples, spread, tmp_path):
    job = sft_job(runs.make_config(model, sft=SPREADS[spread]), model, examples, tmp_path)
    outcome = fit_workers(poison_second_gradient, job)
    assert "gradient norm of step 2 is not finite; the step was not taken; prompt_ids: " in outcome["error"]
    assert len(losses(tmp_path)) == 1
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_bfloat16_comes_close_to_plain_torch(local_ray, model, examples, plain_sft, zero_stage, tmp_path):
    fields = {"precision": "bf16", "num_workers": 2, "micro_batch_tokens": 1, "zero_stage": zero_stage}
    run_sft(runs.make_config(model, sft=fields), str(model), examples, locate(tmp_path))
    assert losses(tmp_path) == pytest.approx(plain_sft[1], rel=1e-2)
    reloaded = plain.load(tmp_path / "model")
    assert all(parameter.isfinite().all() for parameter in reloaded.parameters())


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_row(local_ray, model, quadruples, reference, tmp_path):
    rows = read_rows(reference, ReferenceLogps)
    broken = [replace(rows[0], rejected_logps=float("nan")), *rows[1:]]
    folder = locate(tmp_path / "broken")
    entry = write_rows(folder, "data/rows.parquet", broken, ReferenceLogps)
    config = runs.make_config(model, wrpo=SPREADS["two-workers"])
    with pytest.raises(ModelError, match=rf"loss of step \d is not finite.*{rows[0].prompt_id}$") as raised:
        run_wrpo(config, str(model), quadruples, runs.finish_step(folder, entry), locate(tmp_path / "out"))
    assert raised.value.code == "WRPO-T004"
    assert not (tmp_path / "out" / "model").exists()


def test_rows_without_reference_are_named(model, quadruples, reference, tmp_path):
    rows = read_rows(reference, ReferenceLogps)
    folder = locate(tmp_path)
    entry = write_rows(folder, "data/rows.parquet", rows[1:], ReferenceLogps)
    with pytest.raises(DataError, match=f"1 rows have no reference log-probs: {rows[0].prompt_id}"):
        run_wrpo(runs.make_config(model), str(model), quadruples, runs.finish_step(folder, entry), folder / "out")


def test_reference_is_that_of_plain_torch(model, quadruples, reference):
    config = runs.make_config(model).wrpo
    chat = ChatTokenizer(load_tokenizer(str(model)))
    rows, _ = tokenise(read_rows(quadruples, Quadruple), QUADRUPLE_RESPONSES, chat, config)
    frozen = plain.load(model)
    found = {row.prompt_id: row for row in read_rows(reference, ReferenceLogps)}
    for row in rows:
        for name in QUADRUPLE_RESPONSES:
            expected = plain.logp(frozen, row, name).item()
            assert getattr(found[row["prompt_id"]], f"{name}_logps") == pytest.approx(expected, abs=1e-4)
            assert getattr(found[row["prompt_id"]], f"{name}_num_tokens") == len(row[name])
