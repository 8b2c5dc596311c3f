"""Sources behind an HTTP endpoint: they take time and money, and no accelerator of ours."""

from __future__ import annotations

from wrpo_ray.config import OpenAISourceConfig
from wrpo_ray.planning.accelerators import CPU
from wrpo_ray.planning.generation import Bound
from wrpo_ray.planning.lengths import Lengths
from wrpo_ray.planning.schedule import Job
from wrpo_ray.planning.stage import Stage


def endpoint_stage(
    step: str, model: OpenAISourceConfig, prompts: float, lengths: Lengths, tokens_per_s: float
) -> Stage:
    """Return the stage of a source behind an endpoint; `tokens_per_s`: what one request gets.

    Each sample is a request of its own, so prompts are paid for once per sample. The slowest of the account's limits
    holds it up, or else the endpoint itself.
    """
    response = min(lengths.response_tokens, model.sampling.max_tokens)
    requests = prompts * model.sampling.num_samples
    tokens_in, tokens_out = requests * lengths.prompt_tokens, requests * response
    limits = model.limits
    answering_s = tokens_out / tokens_per_s / limits.max_concurrent_requests
    counted_s = 60 * requests / limits.requests_per_minute if limits.requests_per_minute else 0.0
    # A request counts with its max_tokens while it runs only; over time, with what it really took.
    metered_s = 60 * (tokens_in + tokens_out) / limits.tokens_per_minute if limits.tokens_per_minute else 0.0
    seconds = max(answering_s, counted_s, metered_s)
    bound: Bound = "endpoint" if seconds == answering_s else "rate limit"
    job = Job(step, CPU, model.num_cpus, seconds * model.num_cpus)
    return Stage("sampling", job, requests, tokens_in, tokens_out, 0.0, bound, endpoint=model.name)
