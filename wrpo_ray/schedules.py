"""How alpha and the learning rate move over a run; the one place of each."""

from __future__ import annotations

import math
from typing import Literal

from wrpo_ray.config import AlphaConfig


def alpha_at(step: int, num_steps: int, config: AlphaConfig) -> float:
    """Return alpha for the optimizer step that follows `step` finished ones, out of `num_steps`.

    Linear is the paper's: alpha(t) = end * t / T for t = 0 .. T-1, so it starts at 0 and stays below its end
    (https://arxiv.org/abs/2412.03187, section 3.3). Every schedule but `constant` starts at exactly 0.
    """
    progress = step / num_steps
    match config.schedule:
        case "linear":
            share = progress
        case "constant":
            share = 1.0
        case "cosine":
            share = (1.0 - math.cos(math.pi * progress)) / 2.0
        case "exponential":
            share = math.expm1(config.rate * progress) / math.expm1(config.rate)
        case "step":
            share = step * config.num_stages // num_steps / (config.num_stages - 1)
    return config.end * share


def learning_rate_factor(
    step: int, num_steps: int, warmup_ratio: float, schedule: Literal["cosine", "linear", "constant"]
) -> float:
    """Return the factor on the learning rate for the optimizer step that follows `step` finished ones.

    It rises linearly over the first ceil(warmup_ratio * num_steps) steps, then falls to 0 (or stays, `constant`).
    """
    num_warmup = math.ceil(warmup_ratio * num_steps)
    if step < num_warmup:
        return step / num_warmup
    progress = (step - num_warmup) / max(1, num_steps - num_warmup)
    match schedule:
        case "cosine":
            return (1.0 + math.cos(math.pi * progress)) / 2.0
        case "linear":
            return 1.0 - progress
        case "constant":
            return 1.0
