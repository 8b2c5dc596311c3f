"""What a model's files tell before anything is loaded."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wrpo_ray.config import (
    ModelConfig,
    ModelFiles,
    TrainConfig,
    TransformersRewardConfig,
    VllmRewardConfig,
)
from wrpo_ray.errors import ModelError, Problem, StorageError
from wrpo_ray.hub_errors import HubError, Reason
from wrpo_ray.hub_models import Kind, commit_of, hub_folder, read_record
from wrpo_ray.model_paths import in_object_store, is_local
from wrpo_ray.model_trust import check_settings, unknown_code
from wrpo_ray.models import local_model
from wrpo_ray.prompt_files import shown
from wrpo_ray.storage.location import locate

_SAFETENSORS_INDEX = "model.safetensors.index.json"
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
_REWARD_ARCHITECTURE = re.compile(r"ForSequenceClassification$|RewardModel")
_VLLM_REWARD_ARCHITECTURE = re.compile(r"ForSequenceClassification$")
# transformers ends the names of its language models so; some that also see pictures write text as well.
_LANGUAGE_ARCHITECTURE = re.compile(r"(?:ForCausalLM|LMHeadModel|ForConditionalGeneration|LMHead)$")
# The labels that transformers assumes when config.json names none.
_DEFAULT_NUM_LABELS = 2


@dataclass(frozen=True)
class ModelFacts:
    """A located model: the folder of its small files, its parsed config.json, and the names of all its files."""

    folder: Path
    config: dict[str, Any]
    names: frozenset[str]

    @property
    def text_config(self) -> dict[str, Any]:
        """The part of config.json that describes the language model."""
        nested = self.config.get("text_config")
        return nested if isinstance(nested, dict) else self.config

    @property
    def architectures(self) -> list[str]:
        """Class names that the model was saved from."""
        names = self.config.get("architectures")
        return [str(name) for name in names] if isinstance(names, list) else []


def locate_model(place: str, files: ModelFiles) -> ModelFacts | Problem:
    """Return the facts of a model folder or hub model, or the reason why there are none."""
    if in_object_store(files.path):
        return _locate_in_store(place, files)
    if not is_local(files.path):
        return _locate_on_hub(place, files)
    folder = Path(files.path).expanduser()
    if not folder.is_dir():
        rule = "no such folder" if not folder.exists() else "a model is a folder in Hugging Face format, not a file"
        return Problem(f"{place}.path", files.path, rule, "correct the path; every node must see it", "WRPO-M002")
    if not (folder / "config.json").is_file():
        if any(path.suffix == ".gguf" for path in folder.iterdir()):
            rule = "GGUF models cannot be trained or sampled"
            return Problem(f"{place}.path", files.path, rule, _convert(".gguf"), "WRPO-M006")
        fix = "name a folder in Hugging Face format"
        return Problem(f"{place}.path", files.path, "the folder holds no config.json", fix, "WRPO-M003")
    return _facts(place, files, folder, frozenset(path.name for path in folder.iterdir()))


def _locate_in_store(place: str, files: ModelFiles) -> ModelFacts | Problem:
    """Fetch a model's small files from an object store; the names of its weights are enough here."""
    try:
        folder = Path(local_model(files.path, with_weights=False))
        root = locate(files.path)
        names = frozenset(entry.relative_to(root) for entry in root.walk())
    except (ModelError, StorageError) as error:
        return Problem(f"{place}.path", files.path, error.message, error.help or "correct the path", error.code)
    return _facts(place, files, folder, names)


def _locate_on_hub(place: str, files: ModelFiles) -> ModelFacts | Problem:
    """Fetch a model's small files from the hub, or find them in its cache; the names of its weights are enough here."""
    try:
        commit = commit_of(files.path, files.revision)
        folder = hub_folder(files.path, commit, Kind(weights=False, code=True))
    except HubError as error:
        field, rule, fix, code = error.reason or Reason("path", error.message, error.help or "", error.code)
        value = str(files.revision) if field == "revision" else files.path
        return Problem(f"{place}.{field}", value, rule, fix, code)
    except (ModelError, StorageError) as error:
        return Problem(f"{place}.path", files.path, error.message, error.help or "fetch it again", error.code)
    record = read_record(folder) or {"names": ()}
    return _facts(place, files, folder, frozenset(record["names"]))


def _facts(place: str, files: ModelFiles, folder: Path, names: frozenset[str]) -> ModelFacts | Problem:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        rule = f"config.json cannot be read: {error}"
        return Problem(f"{place}.path", files.path, rule, "fetch the model again", "WRPO-M003")
    if not isinstance(config, dict):
        rule = "config.json must hold an object"
        return Problem(f"{place}.path", files.path, rule, "fetch the model again", "WRPO-M003")
    for key, kind, name in (("auto_map", dict, "an object"), ("model_type", str, "text")):
        if config.get(key) is not None and not isinstance(config[key], kind):
            rule = f"{key} in config.json must be {name}"
            return Problem(f"{place}.path", files.path, rule, "fetch the model again", "WRPO-M003")
    return ModelFacts(folder, config, names)


def check_weights(place: str, facts: ModelFacts) -> Iterator[Problem]:
    """Yield a problem unless the model has all its weights as safetensors."""
    path = f"{place}.path"
    if _SAFETENSORS_INDEX in facts.names:
        if (facts.folder / _SAFETENSORS_INDEX).is_file():
            yield from _check_shards(path, facts)
        return
    if any(name.endswith(".safetensors") for name in facts.names):
        return
    pickles = sorted(name for name in facts.names if name.endswith(_PICKLE_SUFFIXES) and name != "training_args.bin")
    if pickles:
        rule = f"weights must be safetensors; {pickles[0]} is a pickle, which can run code when it is read"
        yield Problem(path, str(facts.folder), rule, _convert(Path(pickles[0]).suffix), "WRPO-M006")
    elif gguf := sorted(name for name in facts.names if name.endswith(".gguf")):
        rule = f"weights must be safetensors, not GGUF ({gguf[0]})"
        yield Problem(path, str(facts.folder), rule, _convert(".gguf"), "WRPO-M006")
    else:
        rule = "the model has no weights (*.safetensors)"
        yield Problem(path, str(facts.folder), rule, "fetch the model again", "WRPO-M005")


def _convert(suffix: str) -> str:
    if suffix == ".gguf":
        return "name the safetensors model that the GGUF file was made from"
    return "load it where you trust it and save it again: AutoModelForCausalLM.from_pretrained(a).save_pretrained(b)"


def _check_shards(path: str, facts: ModelFacts) -> Iterator[Problem]:
    try:
        index = json.loads((facts.folder / _SAFETENSORS_INDEX).read_text(encoding="utf-8"))
        shards = sorted(set(index["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        rule = f"the index of the weights cannot be read: {error!r}"
        yield Problem(path, _SAFETENSORS_INDEX, rule, "fetch it again", "WRPO-M005")
        return
    if missing := [shard for shard in shards if shard not in facts.names]:
        rule = f"{len(missing)} of {len(shards)} files of weights are missing, the first is {missing[0]}"
        fix = "fetch the model again; an interrupted download can be resumed"
        yield Problem(path, str(facts.folder), rule, fix, "WRPO-M005")


def check_remote_code(place: str, files: ModelFiles, facts: ModelFacts) -> Iterator[Problem]:
    """Yield a problem when the model cannot be loaded without code of its own and that code is not allowed.

    Many models that transformers knows by now still carry old code (`auto_map`); they need none of it.
    """
    auto_map = facts.config.get("auto_map")
    if not auto_map or files.trust_remote_code:
        return
    from transformers import CONFIG_MAPPING

    own_head = isinstance(files, VllmRewardConfig | TransformersRewardConfig)
    if facts.config.get("model_type") in CONFIG_MAPPING and not own_head:
        return
    rule = f"the model runs code of its own ({shown(sorted(auto_map))}), and trust_remote_code is false"
    fix = "read that code; then set trust_remote_code, code_sha256 and a pinned revision, or choose another model"
    yield Problem(f"{place}.trust_remote_code", "false", rule, fix, "WRPO-M007")


def check_trust(place: str, files: ModelFiles, facts: ModelFacts) -> Iterator[Problem]:
    """Yield a problem for code that would run without being known by its hash, and for code that nobody named."""
    if files.trust_remote_code and (problem := unknown_code(facts.folder, files.code_sha256, place)):
        yield problem
    yield from check_settings(place, files.path, facts.folder, facts.names, files.trust_remote_code)


def _max_positions(facts: ModelFacts) -> int | None:
    """Return the longest sequence of a model, or None when config.json names none or stretches it by RoPE scaling."""
    config = facts.text_config
    scaling = config.get("rope_scaling")
    parameters = config.get("rope_parameters")
    if scaling or (isinstance(parameters, dict) and parameters.get("rope_type", "default") != "default"):
        return None
    limit = config.get("max_position_embeddings", config.get("n_positions"))
    return limit if isinstance(limit, int) else None


def check_max_model_len(place: str, files: ModelFiles, facts: ModelFacts) -> Iterator[Problem]:
    """Yield a problem when the engine is asked for longer sequences than the model has positions."""
    limit = _max_positions(facts)
    if isinstance(files, ModelConfig | VllmRewardConfig):
        field, value = f"{place}.engine.max_model_len", files.engine.max_model_len
    elif isinstance(files, TransformersRewardConfig):
        field, value = f"{place}.max_model_len", files.max_model_len
    else:
        return
    if limit is not None and value > limit:
        rule = f"the model has {limit} positions (max_position_embeddings)"
        yield Problem(field, str(value), rule, f"set it to {limit} or less", "WRPO-M008")


def check_max_length(place: str, train: TrainConfig, facts: ModelFacts) -> Iterator[Problem]:
    """Yield a problem when training sequences are longer than the target has positions."""
    limit = _max_positions(facts)
    if limit is not None and train.max_length > limit:
        rule = f"the target has {limit} positions (max_position_embeddings)"
        yield Problem(f"{place}.max_length", str(train.max_length), rule, f"set it to {limit} or less", "WRPO-M008")


def check_language_model(place: str, files: ModelFiles, facts: ModelFacts) -> Iterator[Problem]:
    """Yield a problem when config.json names an architecture that writes no text; it need not name one."""
    names = facts.architectures
    if names and not files.trust_remote_code and not any(_LANGUAGE_ARCHITECTURE.search(name) for name in names):
        rule = f"a source or target must be a language model; this one is {shown(names)}"
        yield Problem(f"{place}.path", files.path, rule, "name a causal language model", "WRPO-M017")


def check_reward(reward: VllmRewardConfig | TransformersRewardConfig, facts: ModelFacts) -> Iterator[Problem]:
    """Yield problems unless the model is a classifier that gives one number."""
    auto_map = facts.config.get("auto_map") or {}
    may_run = reward.type == "transformers" and reward.trust_remote_code
    own_class = may_run and "AutoModelForSequenceClassification" in auto_map
    # vLLM serves its *ForRewardModel classes per token only, and a reward is one number for the whole answer.
    accepted = _VLLM_REWARD_ARCHITECTURE if reward.type == "vllm" else _REWARD_ARCHITECTURE
    if not own_class and not any(accepted.search(name) for name in facts.architectures):
        rule = f"a reward model must be a sequence classifier; this one is {shown(facts.architectures)}"
        yield Problem("reward.path", reward.path, rule, "name a reward model", "WRPO-M009")
        return
    if isinstance(reward, TransformersRewardConfig) and reward.score_field == "score":
        return
    num_labels = _num_labels(facts.config)
    if num_labels != 1:
        rule = f"the reward is the logit of one label; this classifier has {num_labels}"
        yield Problem(
            "reward.path", reward.path, rule, "name a reward model with one label (num_labels 1)", "WRPO-M010"
        )


def _num_labels(config: dict[str, Any]) -> int:
    labels = config.get("id2label")
    if isinstance(labels, dict):
        return len(labels)
    count = config.get("num_labels", _DEFAULT_NUM_LABELS)
    return count if isinstance(count, int) else _DEFAULT_NUM_LABELS
