"""A config with an evaluation, and a folder with the model and the prompts that it names."""

from __future__ import annotations

import json
from pathlib import Path

from tests.tiny import chatml_tokenizer, save_llama
from wrpo_ray.config import FuseConfig
from wrpo_ray.config_file import parse_config

URL = "https://api.example.com/v1"
RUN = """\
run: {{name: tiny, root: "{folder}/runs"}}
prompts: {{path: "{folder}/prompts.jsonl", answer_column: answer}}
model_defaults: {{engine: {{max_model_len: 128}}, sampling: {{max_tokens: 8}}}}
sources:
  - {{name: a, path: "{folder}/t"}}
  - {{name: gpt, type: openai, base_url: "{url}", model: small, limits: {{tokens_per_minute: 1000}}}}
target: {{name: t, path: "{folder}/t", resources: {{num_cpus: 2}}}}
reward: {{type: verifier}}
sft: {{learning_rate: 1e-3, max_length: 64, max_prompt_length: 32}}
wrpo: {{learning_rate: 1e-3, max_length: 64, max_prompt_length: 32}}
min_sources: 1
"""
EVALUATION = """\
evaluation:
  prompts: {{path: "{folder}/heldout.jsonl", answer_column: answer}}
  sampling: {{max_tokens: 9, num_samples: 2}}
"""
OWN = ("t", "target-sft", "fused")


def evaluation_folder(folder: Path) -> Path:
    """Write the target and source `a`, the run's prompts, held-out prompts and harmful ones into `folder`."""
    save_llama(folder / "t", chatml_tokenizer())
    for name, first in (("prompts", 0), ("heldout", 100), ("harmful", 200)):
        rows = [{"prompt": f"question {number}", "answer": str(number)} for number in range(first, first + 30)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def evaluation_config(folder: Path, *overrides: str, url: str = URL, evaluation: str = EVALUATION) -> FuseConfig:
    """Return the config of a run with a source of either kind; evaluation: the section, as a text to be formatted."""
    return parse_config((RUN + evaluation).format(folder=folder, url=url), "c.yaml", overrides)
