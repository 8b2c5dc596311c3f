"""The section `ablation`: what the paper's ablations change; with its defaults a run is the paper's method.

Two ablations need nothing here: without y_ws is `wrpo.objective: dpo`, without y_wt is
`wrpo.alpha: {schedule: constant, end: 1.0}`.
"""

from __future__ import annotations

from typing import Literal

from wrpo_ray.config_base import Frozen

Rank = Literal[1, 2]


class AblationConfig(Frozen):
    """What a run does otherwise than the method, to see what that part of it is worth."""

    source_rank: Rank = 1
    """Which of all source responses is y_ws: 1 the best, 2 the best of those with another text (paper: Table 9)."""
    sft_source_rank: Rank = 1
    """The same for the examples of SFT; the paper does not say whether its rank 2 meant these too."""
    source_rejected: bool = False
    """y_l is the worst response of target and sources together, not of the target alone: our reading of Table 10.

    How the paper's y_ls enters its loss is not known; it may be a term of its own, which there is none of here."""
    skip_sft: bool = False
    """Target-SFT is the target as it is (paper: Figure 4); the prompts of the SFT part are then not trained on."""


_DEPARTURES = {
    "source_rank": "y_ws is the second best source response",
    "sft_source_rank": "the examples of SFT are the second best source responses",
    "source_rejected": "y_l is a source's response where that is worse than the target's worst",
    "skip_sft": "there was no SFT: the target itself drew y_wt and y_l",
}


def departures(ablation: AblationConfig) -> list[str]:
    """Return in words what a run does otherwise than the method."""
    usual = AblationConfig()
    return [words for name, words in _DEPARTURES.items() if getattr(ablation, name) != getattr(usual, name)]
