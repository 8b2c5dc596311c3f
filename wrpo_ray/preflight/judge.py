"""Checks of the judge of an evaluation, besides those of its endpoint."""

from __future__ import annotations

from collections.abc import Iterator

from wrpo_ray.config import FuseConfig
from wrpo_ray.errors import Problem
from wrpo_ray.judging import PLACES, missing_places, template_text


def check_judge(config: FuseConfig) -> Iterator[Problem]:
    """Yield a problem when the judge's template cannot be read, or lacks what a question must hold."""
    judge = config.evaluation.judge if config.evaluation else None
    if judge is None or judge.template is None:
        return
    place, value = "evaluation.judge.template", judge.template
    try:
        template = template_text(judge.template)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        yield Problem(place, value, f"cannot be read: {reason}", "correct the path", "WRPO-C046")
        return
    if missing := missing_places(template):
        rule = f"must hold {', '.join(PLACES)}, each once (the mark more often too); wrong: {', '.join(missing)}"
        yield Problem(place, value, rule, "see docs/evaluation.md for an example", "WRPO-C046")
