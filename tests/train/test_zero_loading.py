"""Under ZeRO 3 a rank never holds more of a model than its share and the layer at hand, from the first byte on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.train import loading_memory, plain, runs, two_ranks
from wrpo_ray.chat import ChatTokenizer
from wrpo_ray.models import load_tokenizer
from wrpo_ray.schema import ReferenceLogps
from wrpo_ray.storage.location import locate
from wrpo_ray.storage.tables import read_rows
from wrpo_ray.train import launch
from wrpo_ray.train.job import TrainJob
from wrpo_ray.train.tokens import QUADRUPLE_RESPONSES, tokenise

MIB = 2**20
# Buffers of gloo, of transformers and of Python.
SLACK_BYTES = 24 * MIB


@pytest.fixture(scope="module")
def large_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 200 MiB with tied embeddings, in several files."""
    folder = tmp_path_factory.mktemp("large") / "model"
    config = LlamaConfig(
        hidden_size=512, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=8, vocab_size=6000,
        tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder, max_shard_size="40MB")
    assert len(list(folder.glob("*.safetensors"))) >= 5
    return folder


def test_a_rank_loads_its_share_alone(large_model: Path) -> None:
    (large_model.parent / "stage.txt").write_text("3")
    # glibc keeps freed blocks below its threshold, and raises that by itself up to 32 MiB.
    ranks = two_ranks.start("tests.train.loading_memory", large_model.parent, MALLOC_MMAP_THRESHOLD_=str(MIB))
    whole = plain.load(large_model)
    sizes = [4 * parameter.numel() for parameter in whole.parameters()]
    share = sum(sizes) / two_ranks.NUM_RANKS
    print({"model": sum(sizes) / MIB, "largest": max(sizes) / MIB}, ranks)
    assert share + 2 * max(sizes) + SLACK_BYTES < 0.8 * sum(sizes)
    for rank, found in enumerate(ranks):
        assert 4 * found["num_elements"] == pytest.approx(share, rel=1e-3)
        assert found["peak_bytes"] < share + 2 * max(sizes) + SLACK_BYTES
        assert found["left_bytes"] < share + SLACK_BYTES
        logits = torch.load(large_model.parent / f"logits{rank}.pt")
        torch.testing.assert_close(logits, whole(loading_memory.TOKENS).logits, rtol=1e-4, atol=1e-5)


def test_the_reference_pass_on_a_sharded_model(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five shards of two rows on two ranks: one rank has more to do, and the other keeps step with it."""
    ranks: list[dict[str, int]] = []

    def fit_here(_: Any, job: TrainJob) -> None:
        (tmp_path / "job.json").write_text(job.model_dump_json())
        ranks.extend(two_ranks.start("tests.train.reference_ranks", tmp_path))

    monkeypatch.setattr(launch, "fit_workers", fit_here)
    fields = {"num_workers": two_ranks.NUM_RANKS, "zero_stage": 3, "micro_batch_tokens": 1}
    config = runs.make_config(model, wrpo={**fields, "deepspeed": two_ranks.NOTHING_WHOLE})
    quadruples = runs.write_quadruples(tmp_path / "quadruples", 10)
    result = launch.run_reference(config, str(model), quadruples, locate(tmp_path / "out"))
    whole = plain.load(model)
    rows, _ = tokenise(runs.quadruples(10), QUADRUPLE_RESPONSES, ChatTokenizer(load_tokenizer(str(model))), config.wrpo)
    found = {
        row.prompt_id: row
        for row in read_rows(runs.finish_step(locate(tmp_path / "out"), result=result), ReferenceLogps)
    }
    assert len(found) == 10
    for row in rows:
        for name in QUADRUPLE_RESPONSES:
            expected = plain.logp(whole, row, name).item()
            assert getattr(found[row["prompt_id"]], f"{name}_logps") == pytest.approx(expected, abs=1e-4)
    assert [rank["passes"] for rank in ranks] == [6, 6]
    assert {rank["num_elements"] for rank in ranks} == {sum(each.numel() for each in whole.parameters()) // 2}
