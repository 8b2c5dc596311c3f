"""Cards that say what a fused model and its data are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from wrpo_ray import __version__
from wrpo_ray.config import FuseConfig, ModelFiles, SourceConfig
from wrpo_ray.models import in_object_store, is_local


def model_card(
    config: FuseConfig, summaries: Mapping[str, Mapping[str, Any]], broken_sources: Sequence[str] = ()
) -> str:
    """Return the README of the fused model: sources, data, hyper-parameters, and what evaluation measured.

    broken_sources: names of those that the run went on without; why is the run's own business.
    """
    header: dict[str, Any] = {
        "tags": ["wrpo", "model-fusion", "preference-optimization"],
        "library_name": "transformers",
    }
    if config.export.license:
        header["license"] = config.export.license
    if not (is_local(config.target.path) or in_object_store(config.target.path)):
        header["base_model"] = config.target.path
    sections = [
        f"---\n{yaml.safe_dump(header, sort_keys=False)}---",
        f"# {config.run.name}",
        f"`{config.target.name}` after fusion with {len(config.sources)} source models by "
        f"[WRPO](https://arxiv.org/abs/2412.03187), made by wrpo_ray {__version__}.",
        _sources(config, summaries),
        _broken(broken_sources),
        _data(config, summaries),
        _hyper_parameters(config),
        _evaluation(summaries.get("evaluate", {})),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def dataset_card(config: FuseConfig, name: str) -> str:
    """Return the README of an exported data set, with the header that `datasets.load_dataset` reads."""
    header = {"configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}]}
    sources = ", ".join(source.name for source in config.sources)
    text = f"# {config.run.name}: {name}\n\nResponses of {sources} and {config.target.name}."
    return f"---\n{yaml.safe_dump(header)}---\n\n{text}\n"


def _sources(config: FuseConfig, summaries: Mapping[str, Mapping[str, Any]]) -> str:
    share = summaries.get("fuse", {}).get("best_share", {})
    rows = [
        f"| {source.name} | `{_shown_model(source)}` | {source.sampling.num_samples} "
        f"| {share.get(source.name, 0):.1%} |"
        for source in config.sources
    ]
    head = "## Sources\n\n| source | model | samples per prompt | best response on |\n|---|---|---|---|"
    return "\n".join([head, *rows, "", f"Target: `{_shown_path(config.target.path)}`. Reward: {_reward(config)}."])


def _broken(sources: Sequence[str]) -> str:
    return f"Left out, because they could not be used: {', '.join(sources)}." if sources else ""


def _reward(config: FuseConfig) -> str:
    if config.reward.type == "verifier":
        return f"rule-based verifier ({config.reward.mode})"
    return f"`{_shown_path(config.reward.path)}` ({config.reward.type})"


def _data(config: FuseConfig, summaries: Mapping[str, Mapping[str, Any]]) -> str:
    prompts, sft, fuse = (summaries.get(name, {}) for name in ("prompts", "select_sft", "fuse"))
    examples = "no SFT" if config.ablation.skip_sft else f"{sft.get('num_examples')} examples for SFT"
    return (
        f"## Data\n\n{prompts.get('num_prompts')} prompts of `{Path(config.prompts.path).name}`; {examples}, "
        f"{fuse.get('num_quadruples')} quadruples for WRPO ({fuse.get('num_target_responses_tie')} prompts whose "
        "target responses tie gave none)."
    )


def _hyper_parameters(config: FuseConfig) -> str:
    names = (
        "learning_rate",
        "lr_schedule",
        "warmup_ratio",
        "num_epochs",
        "global_batch_size",
        "max_length",
        "precision",
    )
    rows = [f"| {name} | {getattr(config.sft, name)} | {getattr(config.wrpo, name)} |" for name in names]
    wrpo = config.wrpo
    alpha = f"alpha {wrpo.alpha.schedule} to {wrpo.alpha.end}"
    form = f"beta {wrpo.beta}, gamma {wrpo.gamma}, tau {wrpo.tau}, length normalised: {wrpo.length_normalized}"
    tail = f"Objective `{wrpo.objective}`: {form}, {alpha}. Seed {config.run.seed}."
    return "\n".join(["## Hyper-parameters\n\n| | SFT | WRPO |\n|---|---|---|", *rows, "", tail])


def _evaluation(summary: Mapping[str, Any]) -> str:
    if not summary:
        return ""
    rows = [
        f"| {name} | {values['reward']['mean']:.3f} [{values['reward']['low']:.3f}, {values['reward']['high']:.3f}] |"
        for name, values in summary["models"].items()
    ]
    head = "## Expected reward on held-out prompts\n\n| model | reward, 95 % interval |\n|---|---|"
    return "\n".join([head, *rows])


def _shown_model(source: SourceConfig) -> str:
    """An endpoint's address is not shown: it may be one that only its users should know."""
    return _shown_path(source.path) if isinstance(source, ModelFiles) else f"{source.model} (API)"


def _shown_path(path: str) -> str:
    """A local folder is shown by its name: where it lay on somebody's machine is nobody's business."""
    return path.rstrip("/").rsplit("/", 1)[-1] if is_local(path) or in_object_store(path) else path
