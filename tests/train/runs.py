"""Small training runs through the real Ray Train and DeepSpeed path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests import tiny
from wrpo_ray.config import FuseConfig
from wrpo_ray.schema import Quadruple, SFTExample, prompt_id
from wrpo_ray.storage import Manifest, describe_files, write_manifest, write_rows

WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "Paris", "London", "Rome", "gold")


def _text(seed: int, num_words: int) -> str:
    return " ".join(WORDS[(seed * 7 + index * (seed % 5 + 1)) % len(WORDS)] for index in range(num_words))


def _messages(number: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"{number}: {_text(number, 2 + number % 5)}?"}]


def finish_step(folder: Path) -> Path:
    """Write the manifest of a folder that holds Parquet files and return the folder."""
    files = describe_files(folder, list(folder.rglob("*.parquet")))
    write_manifest(folder, Manifest("step", "0" * 16, {}, {}, files, {}, {}, 0.0))
    return folder


def write_examples(folder: Path, num_rows: int) -> Path:
    rows = [
        SFTExample(prompt_id(_messages(n)), _messages(n), _text(n + 1, 1 + n % 7), "a", 1.0, "stop")
        for n in range(num_rows)
    ]
    write_rows(folder / "data" / "train-00000-of-00001.parquet", rows, SFTExample)
    return finish_step(folder)


def quadruples(num_rows: int) -> list[Quadruple]:
    return [
        Quadruple(
            prompt_id(_messages(n)), _messages(n), _text(n + 1, 1 + n % 7), _text(n + 2, 1 + n % 4),
            _text(n + 3, 2 + n % 5), "a", 3.0, 2.0, 1.0, "stop", "stop", "stop",
        )
        for n in range(num_rows)
    ]  # fmt: skip


def write_quadruples(folder: Path, num_rows: int) -> Path:
    write_rows(folder / "data" / "train-00000-of-00001.parquet", quadruples(num_rows), Quadruple)
    return finish_step(folder)


def make_config(model: Path, sft: dict[str, Any] | None = None, wrpo: dict[str, Any] | None = None) -> FuseConfig:
    """Return a config whose training sections are small, in float32 and with the given fields."""
    train = {
        "learning_rate": 1e-2, "global_batch_size": 4, "micro_batch_size": 4, "max_length": 96, "max_prompt_length": 64,
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
