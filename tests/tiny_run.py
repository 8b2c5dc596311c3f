"""A run of two tiny models that can be planned and checked, and is never run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tests.tiny import chatml_tokenizer, headers_tokenizer, save_llama, save_qwen2
from wrpo_ray.config import FuseConfig
from wrpo_ray.config_file import parse_config


def save_tiny_run(folder: Path) -> Path:
    """Write the source `a`, the target `t` and 30 prompts with answers into `folder`, and return it."""
    save_qwen2(folder / "a", chatml_tokenizer())
    save_llama(folder / "t", headers_tokenizer())
    rows = [{"prompt": f"question {number}", "answer": str(number)} for number in range(30)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def tiny_run(folder: Path, overrides: Sequence[str] = ()) -> FuseConfig:
    """Return the config of a run of what `save_tiny_run` wrote."""
    text = f"""
run: {{name: r, root: {folder / "runs"}}}
prompts: {{path: {folder / "prompts.jsonl"}, answer_column: answer}}
model_defaults: {{engine: {{max_model_len: 128}}, sampling: {{max_tokens: 8}}}}
sources: [{{name: a, path: {folder / "a"}}}]
target: {{name: t, path: {folder / "t"}}}
reward: {{type: verifier}}
sft: {{learning_rate: 1e-3, max_length: 64, max_prompt_length: 32}}
wrpo: {{learning_rate: 1e-3, max_length: 64, max_prompt_length: 32}}
"""
    return parse_config(text, "c.yaml", overrides)
