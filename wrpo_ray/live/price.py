"""What a run has cost so far, by the price list of its config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from wrpo_ray.config import PricesConfig
from wrpo_ray.live.remaining import Stages
from wrpo_ray.live.view import HOUR_S, Price, StepView


def price_so_far(
    prices: PricesConfig, steps: Sequence[StepView], unit_seconds: Mapping[str, float], stages: Stages
) -> Price:
    """Return the price of what is held and drawn since this start of the run began.

    An endpoint's input tokens are not counted by anybody: they are the plan's, for the share of rows that is done.
    """
    amount, without = 0.0, []
    for accelerator, seconds in unit_seconds.items():
        per_hour = prices.per_hour.get(accelerator)
        if per_hour is not None:
            amount += per_hour * seconds / HOUR_S
        elif seconds:
            without.append(accelerator)
    for step in steps:
        endpoint = step.holding.endpoint if step.holding is not None else None
        if endpoint is None or not step.rows:
            continue
        per_token = prices.per_million_tokens.get(endpoint)
        if per_token is None:
            without.append(endpoint)
            continue
        stage = stages.get(step.name)
        tokens_in = stage.input_tokens * step.rows / step.rows_all if stage is not None and step.rows_all else 0.0
        amount += (per_token.output * step.tokens + per_token.input * tokens_in) / 1e6
    return Price(amount, prices.currency, tuple(dict.fromkeys(without)))
