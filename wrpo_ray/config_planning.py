"""Sections that `wrpo-ray plan` reads; nothing that a run makes depends on them."""

from __future__ import annotations

from wrpo_ray.config_base import Frozen, NonNegativeFloat, PositiveFloat, PositiveInt


class TokenPricesConfig(Frozen):
    """What an endpoint charges for a million tokens."""

    input: NonNegativeFloat
    output: NonNegativeFloat


class PricesConfig(Frozen):
    """What accelerators and endpoints cost."""

    currency: str = "USD"
    per_hour: dict[str, NonNegativeFloat] = {}
    """Price of one accelerator for one hour by type, such as {H100: 2.5}; CPU is one core."""
    per_million_tokens: dict[str, TokenPricesConfig] = {}
    """Prices of sources, and of a judge, behind an endpoint, by their names."""


class AcceleratorConfig(Frozen):
    """Figures of an accelerator that the built-in table does not have, from its data sheet (dense, no sparsity)."""

    memory_gb: PositiveFloat
    bandwidth_gb_per_s: PositiveFloat
    """Of its memory."""
    bf16_tflops: PositiveFloat
    fp8_tflops: PositiveFloat | None = None
    """None: it has no 8-bit arithmetic, 8-bit weights are computed with in 16 bits."""
    fp32_tflops: PositiveFloat | None = None
    """None: half of bf16_tflops."""


class PlanningConfig(Frozen):
    """Assumptions of the plan; what is left out is measured or has the default that the plan names."""

    accelerator: str = "H100"
    """Type of the GPUs of every section whose accelerator_type is not set."""
    cluster: dict[str, PositiveInt] = {}
    """Accelerators by type, such as {H100: 64}; a type that is left out has as many as the largest step asks for,
    CPUs enough for all endpoints at once as well."""
    accelerators: dict[str, AcceleratorConfig] = {}
    """Further accelerator types by name; they replace built-in ones of the same name."""
    num_prompts: PositiveInt | None = None
    """None: counted in prompts.path."""
    num_evaluation_prompts: PositiveInt | None = None
    """None: counted in evaluation.prompts.path."""
    mean_prompt_tokens: PositiveFloat | None = None
    """None: the mean UTF-8 bytes of the prompts over 4, plus 10 for the chat template."""
    mean_response_tokens: PositiveFloat = 450.0
    """Of each model; more than its max_tokens is taken for max_tokens."""
    load_gb_per_s: PositiveFloat = 2.0
    """Speed at which one engine reads its weights."""
    engine_start_s: NonNegativeFloat | None = None
    """From start to first token without reading weights; None: 145 s, 20 s with enforce_eager or without vLLM."""
    training_start_s: NonNegativeFloat = 60.0
    """From start to first optimizer step without reading weights."""
    lm_eval_questions: PositiveInt = 1000
    """Of each task of evaluation.lm_eval that the plan does not know (docs/planning.md lists those that it does)."""
    endpoint_tokens_per_s: PositiveFloat = 50.0
    """Tokens that an endpoint writes per second for one request."""
