"""Quadruples in other people's formats."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from wrpo_ray.schema import MESSAGES_TYPE, Quadruple

_MESSAGE_TYPE = pa.struct([("content", pa.string()), ("role", pa.string())])

TRL_PREFERENCE_SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("prompt", MESSAGES_TYPE),
        ("chosen", MESSAGES_TYPE),
        ("rejected", MESSAGES_TYPE),
        ("chosen_source", pa.string()),
        ("chosen_reward", pa.float64()),
        ("rejected_reward", pa.float64()),
    ]
)
WRPO_RELEASE_SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("prompt", _MESSAGE_TYPE),
        ("chosen", pa.list_(_MESSAGE_TYPE)),
        ("rejected", pa.list_(_MESSAGE_TYPE)),
    ]
)


def to_trl_preference(quadruples: Sequence[Quadruple], target: str) -> pa.Table:
    """Return TRL's conversational preference format with explicit prompts.

    Each quadruple gives two pairs with the same rejected response: the source's chosen one, and the target's.
    """
    rows = [
        {
            "prompt_id": row.prompt_id,
            "prompt": row.messages,
            "chosen": [_assistant(chosen)],
            "rejected": [_assistant(row.rejected)],
            "chosen_source": source,
            "chosen_reward": reward,
            "rejected_reward": row.rejected_reward,
        }
        for row in quadruples
        for chosen, source, reward in (
            (row.source_chosen, row.source, row.source_chosen_reward),
            (row.target_chosen, target, row.target_chosen_reward),
        )
    ]
    return pa.Table.from_pylist(rows, schema=TRL_PREFERENCE_SCHEMA)


def to_wrpo_release(quadruples: Sequence[Quadruple]) -> pa.Table:
    """Return the row format of the paper's released data, of those quadruples that it can hold.

    Its prompt is one user message, so prompts with a system message or several turns are left out.
    Source: README of https://github.com/SLIT-AI/WRPO (chosen = [y_ws, y_wt], rejected = [y_l]).
    """
    rows = [
        {
            "prompt_id": row.prompt_id,
            "prompt": row.messages[0],
            "chosen": [_assistant(row.source_chosen), _assistant(row.target_chosen)],
            "rejected": [_assistant(row.rejected)],
        }
        for row in quadruples
        if len(row.messages) == 1
    ]
    return pa.Table.from_pylist(rows, schema=WRPO_RELEASE_SCHEMA)


def _assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}
