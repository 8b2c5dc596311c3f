"""Under ZeRO 3 a rank never holds more of a model than its share and the layer at hand, from the first byte on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.train import loading_memory, plain, two_ranks

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
