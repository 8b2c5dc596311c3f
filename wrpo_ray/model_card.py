"""Cards that say what a fused model and its data are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from wrpo_ray import __version__
from wrpo_ray.config import FuseConfig, ModelFiles, SourceConfig
from wrpo_ray.config_ablation import departures
from wrpo_ray.model_paths import in_object_store, is_local, is_on_hub
from wrpo_ray.model_store import origin


def model_card(
    config: FuseConfig, summaries: Mapping[str, Mapping[str, Any]], broken_sources: Sequence[str] = ()
) -> str:
    """Return the README of the fused model: sources, data, hyper-parameters, and what evaluation measured.

    broken_sources: names of those that the run went on without; why is the run's own business.
    """
    header: dict[str, Any] = {
        "tags": ["wrpo", "model-fusion", "preference-optimization"],
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
    }
    if config.export.license:
        header["license"] = config.export.license
    if (base := hub_name(config.target.path)) is not None:
        header["base_model"] = base
    sections = [
        f"---\n{yaml.safe_dump(header, sort_keys=False)}---",
        f"# {config.run.name}",
        f"`{config.target.name}` after fusion with {len(config.sources)} source models by "
        f"[WRPO](https://arxiv.org/abs/2412.03187), made by wrpo_ray {__version__}.",
        _sources(config, summaries),
        _broken(broken_sources),
        _data(config, summaries),
        _hyper_parameters(config),
        evaluation_section(summaries.get("evaluate", {})),
        _safety(summaries.get("evaluation-safety", {})),
        _benchmarks(summaries),
        _use(config),
        _limits(config),
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
    return "\n".join([head, *rows, "", f"Target: `{shown_path(config.target.path)}`. Reward: {_reward(config)}."])


def _broken(sources: Sequence[str]) -> str:
    return f"Left out, because they could not be used: {', '.join(sources)}." if sources else ""


def _reward(config: FuseConfig) -> str:
    if config.reward.type == "verifier":
        return f"rule-based verifier ({config.reward.mode})"
    return f"`{shown_path(config.reward.path)}` ({config.reward.type})"


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
    trained = {"WRPO": config.wrpo} if config.ablation.skip_sft else {"SFT": config.sft, "WRPO": config.wrpo}
    rows = [" | ".join([f"| {name}", *(str(getattr(of, name)) for of in trained.values())]) + " |" for name in names]
    head = f"| | {' | '.join(trained)} |\n|{'---|' * (1 + len(trained))}"
    wrpo = config.wrpo
    form = f"beta {wrpo.beta}, gamma {wrpo.gamma}, tau {wrpo.tau}, length normalised: {wrpo.length_normalized}"
    # The others have no y_ws to weigh.
    alpha = f", alpha {wrpo.alpha.schedule} to {wrpo.alpha.end}" if wrpo.objective.startswith("wrpo") else ""
    tail = f"Objective `{wrpo.objective}`: {form}{alpha}. Seed {config.run.seed}."
    other = departures(config.ablation)
    told = [f"Otherwise than the method: {'; '.join(other)}."] if other else []
    return "\n".join([f"## Hyper-parameters\n\n{head}", *rows, "", tail, *told])


def evaluation_section(summary: Mapping[str, Any]) -> str:
    """Return what a model card says of the evaluation, by the summary of its step; nothing for an empty one."""
    if not summary:
        return ""
    rows = [
        f"| {name} | {values['reward']['mean']:.3f} [{values['reward']['low']:.3f}, {values['reward']['high']:.3f}] |"
        for name, values in summary["models"].items()
    ]
    head = "## Expected reward on held-out prompts\n\n| model | reward, 95 % interval |\n|---|---|"
    # Evaluations of older versions have no pairs.
    pairs = [f"- By {pair['judged_by']}: {pair['words']}." for pair in summary.get("pairs", ())]
    return "\n".join([head, *rows, *([""] if pairs else []), *pairs])


def _safety(summary: Mapping[str, Any]) -> str:
    if not summary:
        return ""
    rows = [
        f"| {model['name']} | {model['refusal_rate']:.1%} [{model['low']:.1%}, {model['high']:.1%}] |"
        for model in summary["models"]
    ]
    head = "## Refusals of harmful prompts\n\n| model | rate, 95 % interval |\n|---|---|"
    return "\n".join([head, *rows, "", f"{summary['words']}."])


def _benchmarks(summaries: Mapping[str, Mapping[str, Any]]) -> str:
    """What lm-eval measured, one row for each model, task and metric."""
    found = [
        row
        for name, of_step in summaries.items()
        if name.startswith("evaluation-lm-eval-")
        for row in of_step["benchmarks"]
    ]
    if not found:
        return ""
    rows = [
        f"| {row['task']} | {row['metric']} | {row['model']} | {row['value']:.4f} "
        f"| {'' if row['stderr'] is None else format(row['stderr'], '.4f')} |"
        for row in sorted(found, key=lambda row: (row["task"], row["metric"]))
    ]
    return "\n".join(["## lm-eval\n\n| task | metric | model | value | stderr |\n|---|---|---|---|---|", *rows])


def _use(config: FuseConfig) -> str:
    code = "" if not config.target.trust_remote_code else ", trust_remote_code=True"
    return (
        "## Use\n\n```python\nfrom transformers import pipeline\n\n"
        f'chat = pipeline("text-generation", model="FOLDER_OR_NAME"{code})\n'
        'chat([{"role": "user", "content": "..."}])\n```\n\n'
        "The chat template is the target's; generation ends at the template's end token."
    )


def _limits(config: FuseConfig) -> str:
    """What somebody who takes the model should know before."""
    return (
        f"## Limits\n\nIt learned from responses of the source models above, so their mistakes and their licences' "
        f"terms are its own too. Licence of this model: {config.export.license or 'not stated'}. The reward decided "
        "what counts as good; preference training of this kind is known to change how often a model refuses harmful "
        "requests, so measure that before it is put to use."
    )


def _shown_model(source: SourceConfig) -> str:
    """An endpoint's address is not shown: it may be one that only its users should know."""
    return shown_path(source.path) if isinstance(source, ModelFiles) else f"{source.model} (API)"


def hub_name(path: str) -> str | None:
    """Return the name that a model has on the hub, of its copy in a store too; None when it is not from there."""
    copied = None if is_on_hub(path) else origin(path)
    return path if is_on_hub(path) else copied.name if copied else None


def shown_path(path: str) -> str:
    """Return how a model's path is shown to others: its name on the hub, or the name of the folder alone."""
    name = hub_name(path)
    if name is not None:
        return name
    return path.rstrip("/").rsplit("/", 1)[-1] if is_local(path) or in_object_store(path) else path
