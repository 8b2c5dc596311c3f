"""What one measurement is: a model, batches and a device. Travels to the workers as JSON."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.training.shapes import ModelShape
from benchmarks.training.workloads import EOS_ID, PAD_ID, Batch, Row

BETA, ALPHA, LEARNING_RATE = 0.01, 0.1, 3e-7
_SEED = 0


@dataclass(frozen=True)
class Case:
    """One measurement. `fields` are its coordinates in the tables, such as workload and model."""

    shape: ModelShape
    batches: list[Batch]
    device: str = "cpu"
    dtype: str = "float32"
    fields: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(raw: dict[str, Any]) -> Case:
        batches = [[Row(*row) for row in batch] for batch in raw["batches"]]
        return Case(**{**raw, "shape": ModelShape(**raw["shape"]), "batches": batches})


def make_model(case: Case) -> LlamaForCausalLM:
    """Return the case's model: the same random weights in every process."""
    shape = case.shape
    config = LlamaConfig(
        vocab_size=shape.vocab_size, hidden_size=shape.hidden, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, intermediate_size=shape.intermediate,
        max_position_embeddings=8192, pad_token_id=PAD_ID, eos_token_id=EOS_ID, bos_token_id=None,
        tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(_SEED)
    with torch.device(case.device):
        model = LlamaForCausalLM(config).to(getattr(torch, case.dtype))
    model.config._name_or_path = "random-llama"
    return model.train()


def frozen_copy(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """Return the model as a reference."""
    return copy.deepcopy(model).requires_grad_(False).eval()


def make_optimizer(model: torch.nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer of all variants, the one that transformers' Trainer takes by default."""
    return torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)


def response_weights(count: int) -> list[float]:
    """Return what each response of a prompt weighs in the margin: three as in WRPO.

    Other numbers are for the growth tables; their costs do not depend on the weights.
    """
    if count == 1:
        return [1.0]
    if count == 3:
        return [ALPHA, 1.0 - ALPHA, -1.0]
    return [1.0 / (count - 1)] * (count - 1) + [-1.0]


def margin_loss(logps: torch.Tensor, reference: torch.Tensor, counts: list[int]) -> torch.Tensor:
    """Return the mean of -log sigmoid(beta * weighted log-ratios); `counts` are the responses of each row.

    logps, reference: [responses], those of the first row first.
    """
    weights = torch.tensor([weight for count in counts for weight in response_weights(count)], device=logps.device)
    weighted = weights * BETA * (logps - reference)
    margins = torch.stack([part.sum() for part in weighted.split(counts)])
    return -torch.nn.functional.logsigmoid(margins).mean()
