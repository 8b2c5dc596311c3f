"""What adaptive allocation of samples saved and lost, as its audit slice measured it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wrpo_ray.report.folder import RunFacts
from wrpo_ray.report.parts import Table, interval, number, percent

_SHARES = {
    "gain_share": "gain kept, of the full grid's over a random response",
    "same_response": "prompts with the same best response",
    "same_source": "prompts whose best response is of the same source",
    "same_reward": "prompts with the same best reward",
}


def allocation_table(facts: RunFacts) -> Table | None:
    """Return what the audit says; None for a run that draws the full grid, and before the allocation is decided."""
    summary = facts.summary("allocate")
    audit: Mapping[str, Any] = summary.get("audit") or {}
    if not audit:
        return None
    rows = [(words, percent(audit[name]["value"]), _interval(audit[name], percent)) for name, words in _SHARES.items()]
    rows += [
        ("mean reward lost", number(audit["regret"]["value"]), _interval(audit["regret"], number)),
        ("tokens, of the full grid's", percent(audit["token_share"]), ""),
        ("cost, of the full grid's", percent(audit["cost_share"]), ""),
    ]
    words = [f"Measured on {number(audit['num_prompts'])} prompts that the decision never saw."]
    words += [f"{finding[:1].upper()}{finding[1:]}." for finding in summary.get("findings", ())]
    return Table(("audit", "estimate", "95 % interval"), tuple(rows), "Adaptive allocation", " ".join(words))


def _interval(estimate: Mapping[str, float], shown: Any) -> str:
    return interval(estimate["low"], estimate["high"], shown)
