"""A config with every section and both kinds of source, for mutations to be made of."""

from __future__ import annotations

import json
import math
from typing import Any

from wrpo_ray.config_file import dump_config, parse_config

_TEXT = """\
run: {name: whole, root: runs, reuse: [other]}
prompts: {path: prompts.jsonl, column: prompt, answer_column: answer}
sources:
  - name: first
    path: ./first
    revision: main
    chat_template: template.jinja
    engine: {dtype: float32, quantization: fp8, max_model_len: 4096, extra_args: {swap_space: 1}}
    sampling: {num_samples: 4, stop: ["###"], top_k: 50}
    resources: {num_gpus: 1, accelerator_type: H100, env_vars: {OMP_NUM_THREADS: "1"}}
  - name: second
    type: openai
    base_url: https://api.example.com/v1
    model: gpt
    api_key_env: OPENAI_API_KEY
    extra_body: {user: someone}
    limits: {requests_per_minute: 60.0, tokens_per_minute: 100000, max_concurrent_requests: 4}
target: {name: base, path: ./base, resources: {num_gpus: 1}}
reward: {type: transformers, path: ./reward, score_field: score}
sft:
  learning_rate: 7e-6
  num_gpus_per_worker: 1
  lora: {rank: 8, target_modules: [q_proj, v_proj]}
  deepspeed: {steps_per_print: 5}
wrpo:
  learning_rate: 3e-7
  num_gpus_per_worker: 1
  lora: {rank: 4}
min_sources: 1
evaluation:
  prompts: {path: heldout.jsonl, answer_column: answer}
  sources: [first]
  pairs: [[fused, base], [base, target-sft]]
  verifier: {type: verifier, mode: numeric}
  judge:
    name: judge
    base_url: https://judge.example.com/v1
    model: judge
    template: judge.txt
  benchmarks: {alpaca_eval: alpaca_eval.json, mt_bench: question.jsonl}
  safety: {prompts: harmful.jsonl}
  lm_eval: {tasks: [gsm8k], include_path: tasks, num_fewshot: 5, limit: 10, batch_size: 8, model_args: {a: 1}}
rows: {max_rows: 10}
tracking: {wandb_project: project, mlflow_tracking_uri: "http://host:5000"}
ray: {address: local, num_cpus: 4}
export: {path: out, license: mit}
prices:
  per_hour: {H100: 2.5}
  per_million_tokens: {second: {input: 1.0, output: 2.0}}
planning:
  cluster: {H100: 8}
  accelerators: {X1: {memory_gb: 80, bandwidth_gb_per_s: 1000, bf16_tflops: 100, fp8_tflops: 200, fp32_tflops: 50}}
  num_prompts: 100
  num_evaluation_prompts: 10
  mean_prompt_tokens: 50.0
  engine_start_s: 10.0
sampling: {allocation: {policy: waves, token_costs: {first: 2.0}}}
"""
VALID: dict[str, Any] = json.loads(dump_config(parse_config(_TEXT, "whole.yaml")))
REWARDS: tuple[dict[str, Any], ...] = (
    VALID["reward"],
    {"type": "vllm", "path": "./reward", "engine": {"dtype": "float32"}, "resources": {"num_gpus": 1}},
    {"type": "verifier", "mode": "exact", "correct_reward": 1.0, "contained_reward": 0.5, "wrong_reward": 0.0},
)


def yaml_text(value: Any) -> str:
    """Return `value` as YAML in one line; unlike JSON it has inf and nan."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)}: {yaml_text(child)}" for key, child in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(yaml_text, value)) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    return json.dumps(value)
