"""The card of a run's data: what the columns are, who wrote the responses, what was left out, whose terms apply."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import yaml

from wrpo_ray import __version__
from wrpo_ray.data.exporters import TRL_PREFERENCE_SCHEMA, WRPO_RELEASE_SCHEMA
from wrpo_ray.schema import Quadruple, SFTExample

QUADRUPLES, TRL_PREFERENCE, WRPO_RELEASE, SFT = "quadruples", "trl_preference", "wrpo_release", "sft"
SCHEMAS: Mapping[str, pa.Schema] = {
    QUADRUPLES: Quadruple.SCHEMA,
    TRL_PREFERENCE: TRL_PREFERENCE_SCHEMA,
    WRPO_RELEASE: WRPO_RELEASE_SCHEMA,
    SFT: SFTExample.SCHEMA,
}
_TITLES = {
    QUADRUPLES: "one row per prompt: the best source response (y_ws), the target's best (y_wt) and its worst (y_l)",
    TRL_PREFERENCE: "TRL's conversational preference pairs: each quadruple gives two, with the same rejected response",
    WRPO_RELEASE: "the row format of the paper's released data; prompts of several messages have no place in it",
    SFT: "the best source response to each prompt of the SFT split, on which the target was trained first",
}
_MEANINGS = {
    "prompt_id": "hash of the prompt's messages",
    "messages": "the prompt",
    "prompt": "the prompt",
    "source_chosen": "y_ws: the response of a source with the highest reward",
    "target_chosen": "y_wt: the target's own response with the highest reward",
    "rejected": "y_l: the target's own response with the lowest reward",
    "source": "the source that wrote y_ws (in sft: the response)",
    "response": "the response of a source with the highest reward",
    "reward": "raw reward of `response`",
    "finish_reason": "why `response` ended: `length` when it was cut",
    "chosen": "the preferred response (in wrpo_release: y_ws, then y_wt)",
    "chosen_source": "the model that wrote the preferred response",
}
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
NOT_STATED = "not stated"


@dataclass(frozen=True)
class ModelFacts:
    """A model of the run as a card shows it. num_chosen: prompts on which it wrote y_ws; None for the target."""

    name: str
    model: str
    license: str | None
    num_chosen: int | None


@dataclass(frozen=True)
class DataFacts:
    """What a data card tells. num_rows: of each data set by name. fuse: the summary of the step that chose.

    departures: what the run did otherwise than the method, in words.
    """

    run: str
    license: str | None
    models: Sequence[ModelFacts]
    reward: str
    prompts: str
    num_rows: Mapping[str, int]
    fuse: Mapping[str, Any]
    fingerprint: str
    content_sha256: str
    departures: Sequence[str] = ()


def data_card(facts: DataFacts) -> str:
    """Return the README of a run's data, with the header that `datasets.load_dataset` reads."""
    sections = [
        f"---\n{yaml.safe_dump(_header(facts), sort_keys=False)}---",
        f"# {facts.run}: preference data",
        f"Responses of {len(facts.models) - 1} source models and of one target to the same prompts, scored by one "
        "reward, as [WRPO](https://arxiv.org/abs/2412.03187) trains on them; made by wrpo_ray "
        f"{__version__}.",
        *([f"Otherwise than there: {'; '.join(facts.departures)}."] if facts.departures else []),
        _load(facts),
        _models(facts),
        _licences(facts),
        _counts(facts),
        *(_schema(name, facts.num_rows[name]) for name in SCHEMAS if name in facts.num_rows),
        f"## Provenance\n\nRun `{facts.run}`, step `fuse`, fingerprint `{facts.fingerprint}`; SHA-256 over its files "
        f"`{facts.content_sha256}`.",
    ]
    return "\n\n".join(sections) + "\n"


def _header(facts: DataFacts) -> dict[str, Any]:
    largest = max(facts.num_rows.values())
    configs = [
        {
            "config_name": name,
            "data_files": [{"split": "train", "path": f"{name}/train-*"}],
            **({"default": True} if name == QUADRUPLES else {}),
        }
        for name in SCHEMAS
        if name in facts.num_rows
    ]
    return {
        **({"license": facts.license} if facts.license else {}),
        "pretty_name": f"{facts.run} preference data",
        "task_categories": ["text-generation"],
        "size_categories": [next((name for limit, name in _SIZES if largest < limit), "n>1M")],
        "tags": ["wrpo", "model-fusion", "preference-optimization", "synthetic"],
        "configs": configs,
    }


def _load(facts: DataFacts) -> str:
    names = ", ".join(f"`{name}`" for name in SCHEMAS if name in facts.num_rows)
    return (
        "## Use\n\n```python\nfrom datasets import load_dataset\n\n"
        f'data = load_dataset("FOLDER_OR_NAME", "{QUADRUPLES}", split="train")\n```\n\nData sets: {names}.'
    )


def _models(facts: DataFacts) -> str:
    rows = [
        f"| {model.name} | `{model.model}` | {'target' if model.num_chosen is None else 'source'} "
        f"| {'' if model.num_chosen is None else model.num_chosen} | {model.license or NOT_STATED} |"
        for model in facts.models
    ]
    head = "## Who wrote the responses\n\n| name | model | role | y_ws of so many prompts | licence of the model |"
    return "\n".join([head, "|---|---|---|---|---|", *rows, "", f"Reward: {facts.reward}. Prompts: `{facts.prompts}`."])


def _licences(facts: DataFacts) -> str:
    return (
        f"## Licences\n\nLicence of this data set: {facts.license or NOT_STATED}. The terms of the prompts, of each "
        "model above and of the reward model decide whether it is right: some forbid to train other models on their "
        f"output. Where the table says {NOT_STATED}, the model's own page does."
    )


def _counts(facts: DataFacts) -> str:
    fuse = facts.fuse
    rows = [
        ("prompts of the preference split", fuse.get("num_prompts")),
        ("quadruples", fuse.get("num_quadruples")),
        ("left out: no usable source response", fuse.get("num_without_source_response")),
        ("left out: fewer than two target responses", fuse.get("num_fewer_than_two_target_responses")),
        ("left out: the target's responses tie", fuse.get("num_target_responses_tie")),
        ("left out: the source response is the rejected one", fuse.get("num_source_response_is_rejected")),
        *((f"responses not chosen from: {code}", count) for code, count in fuse.get("rows", {}).items()),
    ]
    shown = [f"| {name} | {count} |" for name, count in rows if count is not None]
    return "\n".join(["## Counts\n\n| | number |\n|---|---|", *shown])


def _schema(name: str, num_rows: int) -> str:
    rows = [f"| `{field.name}` | {field.type} | {meaning(field.name)} |" for field in SCHEMAS[name]]
    head = f"## `{name}` ({num_rows} rows)\n\n{_TITLES[name]}\n\n| column | type | what it is |\n|---|---|---|"
    return "\n".join([head, *rows])


def meaning(column: str) -> str:
    """Return what a column of the data sets is."""
    if column in _MEANINGS:
        return _MEANINGS[column]
    for ending, text in (("_reward", "raw reward of {}"), ("_finish_reason", "why {} ended: `length` when it was cut")):
        if column.endswith(ending):
            return text.format(f"`{column.removesuffix(ending)}`")
    raise KeyError(column)
