"""Small training runs through the real Ray Train and DeepSpeed path."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests import tiny
from wrpo_ray.config import FuseConfig
from wrpo_ray.schema import Quadruple, SFTExample, prompt_id
from wrpo_ray.steps import StepResult
from wrpo_ray.storage.location import Location, locate
from wrpo_ray.storage.manifest import FileEntry, Manifest, create_manifest
from wrpo_ray.storage.tables import write_rows
from wrpo_ray.train.launch import run_sft
from wrpo_ray.train.loop import train_worker

WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "Paris", "London", "Rome", "gold")


def _text(seed: int, num_words: int) -> str:
    return " ".join(WORDS[(seed * 7 + index * (seed % 5 + 1)) % len(WORDS)] for index in range(num_words))


def _messages(number: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"{number}: {_text(number, 2 + number % 5)}?"}]


def finish_step(folder: Location, *files: FileEntry, result: StepResult | None = None) -> Location:
    """Write the manifest of a step that made `files` or `result`, and return its folder."""
    made = (*files, *(result.files if result else ()))
    create_manifest(folder, Manifest("step", "0" * 16, {}, {}, made, {}, {}, 0.0))
    return folder


def write_examples(path: Path, num_rows: int) -> Location:
    rows = [
        SFTExample(prompt_id(_messages(n)), _messages(n), _text(n + 1, 1 + n % 7), "a", 1.0, "stop")
        for n in range(num_rows)
    ]
    folder = locate(path)
    return finish_step(folder, write_rows(folder, "data/rows.parquet", rows, SFTExample))


def quadruples(num_rows: int) -> list[Quadruple]:
    return [
        Quadruple(
            prompt_id(_messages(n)), _messages(n), _text(n + 1, 1 + n % 7), _text(n + 2, 1 + n % 4),
            _text(n + 3, 2 + n % 5), "a", 3.0, 2.0, 1.0, "stop", "stop", "stop",
        )
        for n in range(num_rows)
    ]  # fmt: skip


def write_quadruples(path: Path, num_rows: int) -> Location:
    folder = locate(path)
    return finish_step(folder, write_rows(folder, "data/rows.parquet", quadruples(num_rows), Quadruple))


def make_config(model: Path, sft: dict[str, Any] | None = None, wrpo: dict[str, Any] | None = None) -> FuseConfig:
    """Return a config whose training sections are small, in float32 and with the given fields."""
    train = {
        "learning_rate": 1e-2, "global_batch_size": 4, "micro_batch_tokens": 4096, "max_length": 96,
        "max_prompt_length": 64,
        "precision": "fp32", "zero_stage": 0, "lr_schedule": "constant", "warmup_ratio": 0.0,
        # Large, so that Adam does not turn the rounding of tiny gradients into whole steps.
        "adam_epsilon": 1e-3,
    }  # fmt: skip
    return FuseConfig.model_validate({
        "run": {"name": "test"},
        "prompts": {"path": "unused.jsonl"},
        "sources": [{"name": "a", "path": str(model)}],
        "target": {"name": "t", "path": str(model)},
        "reward": {"type": "verifier"},
        "sft": {**train, **(sft or {})},
        "wrpo": {**train, "beta": 0.5, "alpha": {"end": 0.5}, **(wrpo or {})},
    })  # fmt: skip


def save_tiny_model(folder: Path) -> Path:
    return tiny.save_llama(folder, tiny.chatml_tokenizer())


def save_dropout_model(folder: Path) -> Path:
    """Write a tiny model whose training draws random numbers in every layer."""
    save_tiny_model(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "attention_dropout": 0.2}))
    return folder


def train_sft(
    config: FuseConfig, model: Path, examples: Location, out: Path | Location, worker: Any = train_worker
) -> StepResult:
    """Train as `run_sft` does, with another worker function."""
    with patch("wrpo_ray.train.launch.train_worker", worker):
        return run_sft(config, str(model), examples, out if isinstance(out, Location) else locate(out))
