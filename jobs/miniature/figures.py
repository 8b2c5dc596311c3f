"""The paper's Figures 3 and 5 over the miniature's runs, as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jobs.miniature.gathered import FUSED, INTERNAL_REWARDS, SOURCE_ACCURACY, Gathered
from wrpo_ray.evaluate.bootstrap import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, which the colour-blind can tell apart, and readable on white and on black.
_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7")
_PANELS = (
    ("dpo", "DPO on y_wt, y_l"),
    ("hybrid", "DPO on y_ws, y_l (alpha 1)"),
    ("wrpo", "WRPO, alpha from 0 to 0.5"),
)
_ENDS = (0.1, 0.5, 0.9)
_WAYS = {
    "from 0 to": ("dynamic-0.1", "wrpo", "dynamic-0.9"),
    "held at": ("static-0.1", "static-0.5", "static-0.9"),
}
_SMOOTHED_STEPS = 10


def write_figures(gathered: Gathered, out: Path) -> None:
    """Write figure_3.svg and figure_5.svg into the folder `out`."""
    import matplotlib

    matplotlib.use("svg")
    # Numbers of the file's own would make every run's SVG another one.
    matplotlib.rcParams["svg.hashsalt"] = "wrpo_ray"
    _internal_rewards(gathered.of_common_seeds([variant for variant, _ in _PANELS]), out / "figure_3.svg")
    ends = [variant for variants in _WAYS.values() for variant in variants]
    _alphas(gathered.of_common_seeds(["dpo", *ends]), out / "figure_5.svg")


def _save(figure: Any, path: Path, gathered: Gathered) -> None:
    if not gathered.variants:
        figure.suptitle("no seed has finished all of these runs, so nothing is compared")
    figure.savefig(path, bbox_inches="tight", facecolor="white", metadata={"Date": None})


def _internal_rewards(gathered: Gathered, path: Path) -> None:
    """Draw beta * log(policy / reference) of the three responses over training, mean over the seeds: Figure 3."""
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(_PANELS), figsize=(12, 3.6), sharey=True)
    for axes, (variant, title) in zip(panels, _PANELS, strict=True):
        for (metric, label), colour in zip(INTERNAL_REWARDS, _COLOURS, strict=True):
            steps, values = _curve(gathered, variant, metric)
            if len(values):
                axes.plot(steps, values, label=label, color=colour, linewidth=2)
        axes.set_title(title)
        axes.set_xlabel("optimizer step")
        axes.axhline(0, color="#888888", linewidth=0.8)
    panels[0].set_ylabel("internal reward")
    handles, labels = panels[-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=len(labels), bbox_to_anchor=(0.5, -0.14), frameon=False)
    _save(figure, path, gathered)


def _curve(gathered: Gathered, variant: str, metric: str) -> tuple[Sequence[int], Floats]:
    """Return the steps and a metric's mean over the seeds, smoothed over ten logged steps."""
    of_seeds = [run.metrics for run in gathered.of_seeds(variant)]
    if not of_seeds or any(metric not in line for logged in of_seeds for line in logged):
        return [], np.array([])
    length = min(map(len, of_seeds))
    mean = np.mean([[line[metric] for line in logged[:length]] for logged in of_seeds], axis=0)
    window = np.ones(_SMOOTHED_STEPS) / _SMOOTHED_STEPS
    first = _SMOOTHED_STEPS - 1
    return [line["step"] for line in of_seeds[0][first:length]], np.convolve(mean, window, mode="valid")


def _alphas(gathered: Gathered, path: Path) -> None:
    """Draw the reward on held-out prompts, and how often y_ws beats y_l inside the model, over alpha: Figure 5."""
    from matplotlib import pyplot

    figure, (rewards, accuracies) = pyplot.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    for (way, variants), colour in zip(_WAYS.items(), _COLOURS[1:], strict=False):
        runs = {end: gathered.of_seeds(name) for end, name in zip(_ENDS, variants, strict=True)}
        label = f"alpha {way} the end"
        _with_seeds(
            rewards, {end: [run.scores[FUSED].mean for run in each] for end, each in runs.items()}, label, colour
        )
        _with_seeds(
            accuracies,
            {end: [run.at_end[SOURCE_ACCURACY] for run in each] for end, each in runs.items()},
            label,
            colour,
        )
    if dpo := [scored.mean for scored in gathered.scores("dpo", FUSED)]:
        rewards.axhline(float(np.mean(dpo)), color=_COLOURS[0], linestyle="--", label="DPO")
    rewards.set_ylabel("mean reward, held-out prompts")
    accuracies.set_ylabel("r(y_ws) > r(y_l), last tenth of training")
    for axes in (rewards, accuracies):
        axes.set_xlabel("end of alpha")
        axes.set_xticks(_ENDS)
    rewards.legend(frameon=False)
    _save(figure, path, gathered)


def _with_seeds(axes: Axes, values: Mapping[float, Sequence[float]], label: str, colour: str) -> None:
    """Draw the mean over the seeds as a line, and each seed as a point, over the ends of alpha that were run."""
    found = {end: each for end, each in values.items() if each}
    axes.plot(list(found), [float(np.mean(each)) for each in found.values()], color=colour, linewidth=2, label=label)
    for end, each in found.items():
        axes.scatter([end] * len(each), each, color=colour, s=18)
