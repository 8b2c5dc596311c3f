"""How often is tried before something counts as broken, and what becomes of rows that cannot be used."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from wrpo_ray.config_base import Fraction, Frozen, PositiveFloat, PositiveInt


class FaultsConfig(Frozen):
    """How often and how long is tried before something counts as broken."""

    engine_start_attempts: PositiveInt = 3
    """Starts of an engine in a row that may fail before its model counts as unusable."""
    engine_start_timeout_s: PositiveFloat = 1800.0
    """Loading and compiling of a model may take this long."""
    stall_timeout_s: PositiveFloat = 180.0
    """An engine that works but finishes no step for this long is taken for hung and replaced."""
    no_progress_timeout_s: PositiveFloat = 86_400.0
    """A step in which no shard, or no part, ends for this long is stopped; nodes that are slow to come count too.

    It must be well above the time of one shard (resources.prompts_per_shard): hangs are found by stall_timeout_s."""
    max_replica_restarts: PositiveInt = 100
    """Restarts of one replica's actor (lost nodes, kills); without a bound a broken node would be tried for ever."""


class RowsConfig(Frozen):
    """What becomes of a row that cannot be used as it is, by its code.

    keep: used like any other. drop: left out, counted and listed. quarantine: the same, and counts against the budget.
    Rows that crash or hang an engine, and prompts that an endpoint fails at on every try, are always set aside; target
    responses of equal reward never make a pair.
    """

    prompt_too_long: Literal["drop", "quarantine"] = "drop"
    """A prompt that leaves no room for max_tokens in a model's context."""
    prompt_template_refused: Literal["drop", "quarantine"] = "drop"
    """A prompt that a model's chat template raises an error for."""
    content_filtered: Literal["drop", "quarantine"] = "quarantine"
    """A prompt to which an endpoint's content filter held back a response."""
    request_refused: Literal["drop", "quarantine"] = "quarantine"
    """A prompt that an endpoint refuses for another reason (HTTP 400, say)."""
    answer_too_long: Literal["drop", "quarantine"] = "drop"
    """A prompt with its response that the reward model cannot hold."""
    reward_not_finite: Literal["drop", "quarantine"] = "quarantine"
    response_empty: Literal["keep", "drop", "quarantine"] = "drop"
    """A response without text, or of white space alone."""
    response_special_tokens_only: Literal["keep", "drop", "quarantine"] = "drop"
    response_cut: Literal["keep", "drop", "quarantine"] = "keep"
    """A response that was cut at max_tokens."""
    response_control_tokens: Literal["keep", "drop", "quarantine"] = "keep"
    """A response whose text holds what looks like a control token of a chat model, such as `<|im_end|>`.

    Kept, it is neutralised: reward model and training read it as the plain text that it is."""
    responses_identical: Literal["keep", "drop", "quarantine"] = "keep"
    """All responses of all sources to one prompt are the same text."""
    max_fraction: Fraction = 0.05
    """The budget: share of a step's rows that may be set aside before the run stops with exit code 4."""
    max_rows: Annotated[int, Field(ge=0)] | None = None
    """The same as a number of rows; the smaller of the two holds."""
    max_reward_not_finite_fraction: Fraction = 0.5
    """Share of a step's rewards that may be not finite before the reward model counts as broken (exit code 8)."""
