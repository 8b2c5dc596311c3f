"""What a finished run prints: who won how often, what it gained, where things lie."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wrpo_ray.evaluate.expected_reward import Estimate
from wrpo_ray.evaluate.further_lines import further_lines
from wrpo_ray.evaluate.table import aligned, pair_lines
from wrpo_ray.storage.manifest import Manifest


def run_summary(manifests: Mapping[str, Manifest]) -> str:
    """Return the closing text of a run from the manifests of its steps."""
    summaries = {name: manifest.summary for name, manifest in manifests.items()}
    parts = [
        _data(summaries), _sampler(summaries.get("reference")), _set_aside(summaries), _broken(summaries.get("export")),
        _rewards(summaries.get("evaluate")), _pairs(summaries.get("evaluate")), further_lines(summaries),
        _places(manifests),
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part)


def _data(summaries: Mapping[str, Mapping[str, Any]]) -> str:
    fuse = summaries.get("fuse")
    if fuse is None:
        return ""
    counts = f"{fuse['num_quadruples']} quadruples from {fuse['num_prompts']} prompts"
    ties = f"{fuse['num_target_responses_tie']} whose target responses tie"
    if fuse["num_source_response_is_rejected"]:
        ties += f", {fuse['num_source_response_is_rejected']} whose best source response is the rejected one"
    width = max(map(len, fuse["best_share"]))
    shares = [f"  {name:<{width}}  {share:6.1%}" for name, share in fuse["best_share"].items()]
    return "\n".join([f"{counts} ({ties}); best response by source:", *shares])


def _sampler(reference: Mapping[str, Any] | None) -> str:
    """Tell how far the sampler's log-probs are from the model's own, where the reference was taken from them."""
    check = ((reference or {}).get("sampler") or {}).get("check")
    if not check:
        return ""
    return "reference log-probs from the sampler; difference on the checked rows:\n  " + ", ".join(
        f"{name.replace('_', ' ')} {value}" for name, value in check.items()
    )


def _set_aside(summaries: Mapping[str, Mapping[str, Any]]) -> str:
    """Name every code that rows of a step got, be they used or not; the files are in the step's quarantine folder."""
    codes = {name: summary.get("quarantined") or summary.get("rows") for name, summary in summaries.items()}
    told = {name: of_step for name, of_step in codes.items() if of_step}
    if not told:
        return "no row was set aside"
    width = max(map(len, told))
    lines = [
        f"  {name:<{width}}  " + ", ".join(f"{count} {code}" for code, count in sorted(of_step.items()))
        for name, of_step in told.items()
    ]
    return "\n".join(["rows with a code (see `wrpo-ray status`):", *lines])


def _broken(export: Mapping[str, Any] | None) -> str:
    sources = (export or {}).get("broken_sources", {})
    if not sources:
        return ""
    return "\n".join(["the run went on without:", *(f"  {name}: {reason}" for name, reason in sources.items())])


def _rewards(evaluation: Mapping[str, Any] | None) -> str:
    if evaluation is None:
        return ""
    rows = [("model", "expected reward [95 % interval]", "gain over the row above")]
    for name, values in evaluation["models"].items():
        gain = str(Estimate(**values["gain"])) if "gain" in values else ""
        rows.append((name, str(Estimate(**values["reward"])), gain))
    return "\n".join(["held-out prompts:", *(f"  {line}" for line in aligned(rows))])


def _pairs(evaluation: Mapping[str, Any] | None) -> str:
    # Steps of older versions have none.
    pairs = (evaluation or {}).get("pairs")
    if not pairs:
        return ""
    return "\n".join(
        ["pairs on held-out prompts (ties count half):", *(f"  {line}".rstrip() for line in pair_lines(pairs))]
    )


def _places(manifests: Mapping[str, Manifest]) -> str:
    export = manifests.get("export")
    if export is None:
        return ""
    return f"fused model: {export.summary['model']}\ndata sets:   {export.summary['datasets']}"
