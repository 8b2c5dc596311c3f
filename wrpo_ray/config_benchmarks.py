"""Config sections of what evaluation does beside comparing rewards: benchmarks, lm-eval, and the safety slice."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from wrpo_ray.config_base import Frozen, NonNegativeFloat, PositiveInt, Slug


class BenchmarksConfig(Frozen):
    """Question files of benchmarks; target, Target-SFT, fused model and, on demand, sources answer them, in each
    benchmark's own format.

    What judges the answers is the benchmark's own package; see docs/benchmarks.md."""

    alpaca_eval: str | None = None
    """AlpacaEval 2: a .json or .jsonl file of {instruction, dataset}, such as alpaca_eval.json."""
    arena_hard_v0_1: str | None = None
    """Arena-Hard v0.1: its question.jsonl, with {question_id, turns: [{content}]}."""
    arena_hard_v2: str | None = None
    """Arena-Hard v2: its question.jsonl, with {uid, prompt}."""
    mt_bench: str | None = None
    """MT-Bench: its question.jsonl, with {question_id, category, turns}; each turn is a sampling step of its own."""
    sources: Literal["all"] | tuple[Slug, ...] = ()
    """Names of sources that answer the questions too, or all."""
    temperature: NonNegativeFloat | None = None
    """One for all questions; none: those of MT-Bench have that of their category, as FastChat has it (0.7 writing and
    roleplay, 0.1 stem and humanities), all others 0, which takes the most likely token."""
    max_tokens: PositiveInt = 2048
    """Longest answer in tokens."""


class SafetyConfig(Frozen):
    """Harmful requests, and how often target, Target-SFT and fused model refuse them."""

    prompts: str
    """A .parquet or .jsonl file with the requests, a folder of them, or a `save_to_disk` folder."""
    column: str = "prompt"
    """Column with the request: strings, or lists of {role, content}."""
    temperature: NonNegativeFloat = 0.0
    """0 takes the most likely token."""
    max_tokens: PositiveInt = 256
    """Longest answer in tokens; a refusal says so at once."""
    num_bootstrap: PositiveInt = 2000
    """Resamples of the prompts behind the 95 % confidence intervals."""


class LmEvalConfig(Frozen):
    """Tasks of EleutherAI's lm-evaluation-harness, run on target, Target-SFT and fused model (`wrpo-ray[lm-eval]`)."""

    tasks: Annotated[tuple[str, ...], Field(min_length=1)]
    """Names as `lm_eval ls tasks` lists them, such as gsm8k and mmlu; their data come from the hub."""
    include_path: str | None = None
    """Folder with further tasks as YAML files, and the data beside them; it must be seen by every node."""
    backend: Literal["vllm", "hf"] = "vllm"
    """vllm takes the target's `engine` section, hf is transformers."""
    num_fewshot: Annotated[int, Field(ge=0)] | None = None
    """Examples before each question; none takes each task's own number."""
    apply_chat_template: bool = False
    """Put each question, and its examples as turns before it, into the model's chat template."""
    limit: PositiveInt | None = None
    """Questions of each task, to try things out; none takes all."""
    batch_size: PositiveInt | Literal["auto"] = "auto"
    """Of the backend; auto finds the largest that fits."""
    model_args: dict[str, JsonValue] = {}
    """Further arguments of the backend by name, passed on as they are."""
