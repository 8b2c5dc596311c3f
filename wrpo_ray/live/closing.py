"""What a run prints when it is over: each step as planned and as it was, and what this start of the run held."""

from __future__ import annotations

from collections.abc import Mapping

from wrpo_ray.live import words
from wrpo_ray.live.state import LiveRun
from wrpo_ray.live.view import HOUR_S, RunView
from wrpo_ray.planning.against import compare, compared_text
from wrpo_ray.run_status import duration
from wrpo_ray.storage.manifest import Manifest


def closing_text(live: LiveRun, manifests: Mapping[str, Manifest]) -> str:
    """Return planned against actual for the steps that have manifests, and accelerator-hours and price of this start.

    Steps of earlier starts are compared too: their manifests hold what they took, but nobody has written down what they
    held.
    """
    return "\n\n".join([_planned_against_actual(live, manifests), held_text(live.view())])


def _planned_against_actual(live: LiveRun, manifests: Mapping[str, Manifest]) -> str:
    plan = live.plan
    if "stages" not in plan:
        return f"planned against actual: there is no plan ({plan.get('reason', 'none was made')})"
    # Of one step by name, the others were neither made nor looked at.
    stages = [stage for stage in plan["stages"] if live.only is None or stage["step"] in manifests]
    return f"planned against actual:\n{compared_text(compare(stages, manifests))}"


def held_text(view: RunView) -> str:
    """Return what this start of the run held, and its price."""
    made, found = view.count("done"), view.count("complete before")
    told = f"this start made {made} steps in {duration(view.seconds)}"
    if found:
        told += f", {found} were complete before"
    hours = [
        f"{words.hours(seconds / HOUR_S)} {name}-hours" for name, seconds in view.unit_seconds.items() if seconds > 0
    ]
    parts = [", ".join(hours) or "no accelerator-hours", words.price(view.price)]
    return f"{told}; it held {', '.join(part for part in parts if part)}"
