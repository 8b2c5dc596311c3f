"""Rules that tie several config fields together; each returns the problems that it finds."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from wrpo_ray.config import (
    EngineConfig,
    FuseConfig,
    ModelFiles,
    OpenAISourceConfig,
    ResourcesConfig,
    SourceConfig,
    TrainConfig,
)
from wrpo_ray.config_endpoint_rules import endpoint_problems, shown
from wrpo_ray.config_engine_rules import denied_arguments, denied_environment, denied_lm_eval_arguments
from wrpo_ray.config_evaluation_rules import RUNS_OWN_MODELS, evaluation_problems
from wrpo_ray.config_place_rules import place_problems
from wrpo_ray.errors import Problem
from wrpo_ray.redaction import HIDDEN, has_secret, is_secret_name, redacted

OWN_ENGINE_ARGS = frozenset(
    {
        "model",
        "tokenizer",
        "revision",
        "tokenizer_revision",
        "trust_remote_code",
        "seed",
        "runner",
        "convert",
        "logprobs_mode",
        "hf_token",
    }
    | set(EngineConfig.model_fields) - {"extra_args"}
)
OWN_DEEPSPEED_SETTINGS = (
    "train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping",
    "bf16.enabled", "fp16.enabled", "optimizer", "scheduler", "compile", "managed_gradient_accumulation",
    "zero_optimization.stage", "zero_optimization.offload_optimizer.device", "zero_optimization.offload_param.device",
    "zero_optimization.zero_hpz_partition_size", "zero_optimization.zero_quantized_weights",
    "zero_optimization.zero_quantized_gradients",
)  # fmt: skip

# A driver renews its lease every few seconds; a shorter time-out would take a slow store for a dead driver.
MIN_LEASE_TIMEOUT_S = 10.0
_OBJECT_STORE = re.compile(r"(?:s3|gs)://[a-z0-9][a-z0-9._-]{1,61}[a-z0-9](?:/[^?#]*)?")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")


def broken_rules(config: FuseConfig) -> list[Problem]:
    """Return every cross-field problem of a config whose single fields are valid."""
    return [
        *_run(config),
        *_secrets(config),
        *_free_values(config),
        *place_problems(_leaves(config.model_dump(mode="json"), config)),
        *_names(config),
        *_model_files(config),
        *_engines(config),
        *_denied(config),
        *endpoint_problems(config),
        *_trainings(config),
        *_lengths(config),
        *_reward(config),
        *_allocation(config),
        *evaluation_problems(config),
    ]


def _run(config: FuseConfig) -> Iterator[Problem]:
    timeout_s = config.run.lease_timeout_s
    if 0 < timeout_s < MIN_LEASE_TIMEOUT_S:
        rule = f"must be 0 (no lease) or at least {MIN_LEASE_TIMEOUT_S:g} seconds"
        yield Problem("run.lease_timeout_s", f"{timeout_s:g}", rule, "set it to 60", "WRPO-C026")
    if config.min_sources is not None and config.min_sources > len(config.sources):
        rule = f"must be at most the number of sources, {len(config.sources)}"
        fix = f"set it to {len(config.sources)} or less, or leave it out: then all are needed"
        yield Problem("min_sources", str(config.min_sources), rule, fix, "WRPO-C025")
    for field, place in (("run.root", config.run.root), ("models.store", config.models.store)):
        if place is not None and (problem := _root(field, place)):
            yield problem


def _root(field: str, root: str) -> Problem | None:
    if not root.strip() or "\0" in root:
        return Problem(field, shown(root), "must name a folder", "write the path of one", "WRPO-C027")
    if root.startswith("~"):
        return Problem(field, shown(root), "`~` is not spelled out", "write the whole path", "WRPO-C027")
    if _SCHEME.match(root) and not _OBJECT_STORE.fullmatch(root):
        rule = "must be a path, s3://bucket/prefix or gs://bucket/prefix, without user, query or port"
        fix = "a shared file system is a path; credentials belong into the environment"
        return Problem(field, shown(root), rule, fix, "WRPO-C027")
    return None


# Their keys are names of variables and of settings that are passed on.
_FREE_SECTIONS = (".env_vars.", ".extra_args.", ".deepspeed.", ".extra_body.", "cluster.env.")


def _secrets(config: FuseConfig) -> Iterator[Problem]:
    """Yield a problem for every value that is a secret: the config is stored with the run and shown by Ray."""
    for place, value in _leaves(config.model_dump(mode="json"), config):
        name = place.rsplit(".", 1)[-1]
        free = any(section in place for section in _FREE_SECTIONS)
        is_secret = isinstance(value, str) and value and (has_secret(value) or (free and is_secret_name(name)))
        if is_secret or has_secret(name):
            rule = "never put a secret here: the config is stored with the run"
            fix = "set it in the environment of the nodes, or name a file there that holds it"
            yield Problem(redacted(place), HIDDEN, rule, fix, "WRPO-C024")


def _free_values(config: FuseConfig) -> Iterator[Problem]:
    """Yield a problem for every number in a free-form section that JSON cannot hold."""
    for place, value in _leaves(config.model_dump(mode="python"), config):
        if isinstance(value, float) and not math.isfinite(value):
            yield Problem(place, str(value), "must be a finite number", "write a finite number", "WRPO-C006")


def _leaves(value: Any, config: FuseConfig, place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the place and value of everything in a config that is no section; sources are called by their names."""
    if isinstance(value, Mapping):
        for key, child in value.items():
            yield from _leaves(child, config, f"{place}.{key}" if place else str(key))
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for index, child in enumerate(value):
            name = config.sources[index].name if place == "sources" else index
            yield from _leaves(child, config, f"{place}.{name}")
    else:
        yield place, value


def _names(config: FuseConfig) -> Iterator[Problem]:
    counts = Counter(source.name.casefold() for source in config.sources)
    for name, count in counts.items():
        if count > 1:
            fix = "give each source its own name"
            yield Problem(
                "sources[*].name", name, f"named {count} times; a name stands for one source", fix, "WRPO-C013"
            )
    for place, model in (("target", config.target), *((f"sources.{s.name}", s) for s in config.sources)):
        if model.name.casefold() in RUNS_OWN_MODELS:
            rule = "this name is used for a model of the run"
            yield Problem(f"{place}.name", model.name, rule, "choose another name", "WRPO-C013")
    if config.target.name.casefold() in counts:
        fix = "give the target another name, also when it is a source"
        yield Problem("target.name", config.target.name, "a source has this name", fix, "WRPO-C013")
    for (field, *model), count in Counter(map(_told_apart_by, config.sources)).items():
        if count > 1:
            fix = "list the model once and raise its sampling.num_samples"
            yield Problem(f"sources[*].{field}", model[0], f"the same model is listed {count} times", fix, "WRPO-C014")


def _told_apart_by(source: SourceConfig) -> tuple[str, ...]:
    """Return the field that names a source's model, its value, and what else makes it another model."""
    if isinstance(source, OpenAISourceConfig):
        return "model", source.model, source.base_url, json.dumps(source.extra_body, sort_keys=True)
    return "path", source.path, str(source.revision), str(source.chat_template)


def model_sections(config: FuseConfig) -> Iterator[tuple[str, ModelFiles]]:
    """Yield every section that names a model's files, with its place: sources (not endpoints), target, reward model."""
    yield from ((f"sources.{source.name}", source) for source in config.sources if isinstance(source, ModelFiles))
    yield "target", config.target
    if isinstance(config.reward, ModelFiles):
        yield "reward", config.reward


def _model_files(config: FuseConfig) -> Iterator[Problem]:
    for place, files in model_sections(config):
        pinned = (
            files.revision is not None and len(files.revision) == 40 and set(files.revision) <= set("0123456789abcdef")
        )
        if files.trust_remote_code and not pinned and not files.path.startswith(("/", "./", "../", "s3://", "gs://")):
            fix = "set revision to the 40-digit commit whose code you read, or give a local folder (./name or /name)"
            rule = "code of a hub model runs only at a pinned revision"
            yield Problem(f"{place}.revision", str(files.revision), rule, fix, "WRPO-C015")


def _engines(config: FuseConfig) -> Iterator[Problem]:
    for place, files in model_sections(config):
        engine, resources = getattr(files, "engine", None), getattr(files, "resources", None)
        if isinstance(engine, EngineConfig) and isinstance(resources, ResourcesConfig):
            yield from _engine(place, engine, resources)
            yield from _spanning(place, resources)
        elif isinstance(resources, ResourcesConfig) and resources.num_nodes > 1:
            rule = "must be 1: only an engine of vLLM can span nodes"
            yield Problem(f"{place}.resources.num_nodes", str(resources.num_nodes), rule, "remove it", "WRPO-C016")


def _denied(config: FuseConfig) -> Iterator[Problem]:
    """Yield a problem for whatever of engines is passed on as it is and must not be."""
    for place, files in model_sections(config):
        engine, resources = getattr(files, "engine", None), getattr(files, "resources", None)
        if isinstance(engine, EngineConfig):
            yield from denied_arguments(f"{place}.engine.extra_args", engine.extra_args)
        if isinstance(resources, ResourcesConfig):
            yield from denied_environment(f"{place}.resources.env_vars", resources.env_vars)
    if config.cluster:
        yield from denied_environment("cluster.env", config.cluster.env, may_name_code=True)
    if config.evaluation and config.evaluation.lm_eval:
        arguments = config.evaluation.lm_eval.model_args
        yield from denied_lm_eval_arguments("evaluation.lm_eval.model_args", arguments)


def _spanning(place: str, resources: ResourcesConfig) -> Iterator[Problem]:
    gpus, nodes = resources.num_gpus, resources.num_nodes
    if nodes > 1 and (gpus < nodes or gpus % nodes):
        rule = f"must divide resources.num_gpus = {gpus:g}: each node gives equally many GPUs"
        yield Problem(f"{place}.resources.num_nodes", str(nodes), rule, "set it to a divisor, or to 1", "WRPO-C016")


def _engine(place: str, engine: EngineConfig, resources: ResourcesConfig) -> Iterator[Problem]:
    world = engine.tensor_parallel_size * engine.pipeline_parallel_size
    gpus = resources.num_gpus
    if gpus > 0 and gpus != world and not (world == 1 and gpus < 1):
        rule = (
            f"must equal tensor_parallel_size * pipeline_parallel_size = {world} (when that is 1, a fraction will do)"
        )
        yield Problem(f"{place}.resources.num_gpus", str(gpus), rule, f"set it to {world}", "WRPO-C016")
    if engine.max_num_batched_tokens < engine.max_num_seqs:
        rule = f"must be at least max_num_seqs = {engine.max_num_seqs}: each sequence takes a token of every step"
        fix = "raise max_num_batched_tokens or lower max_num_seqs"
        yield Problem(
            f"{place}.engine.max_num_batched_tokens", str(engine.max_num_batched_tokens), rule, fix, "WRPO-C017"
        )
    if gpus < 1 and 0 < gpus < engine.gpu_memory_utilization:
        rule = f"must be at most resources.num_gpus = {gpus}: replicas that share a GPU share its memory"
        value = str(engine.gpu_memory_utilization)
        yield Problem(f"{place}.engine.gpu_memory_utilization", value, rule, f"set it to {gpus} or less", "WRPO-C016")
    if gpus == 0 and engine.max_num_batched_tokens < engine.max_model_len:
        # Without a GPU prompts are read in one piece; see engines/vllm_engine.py.
        rule = f"must be at least max_model_len = {engine.max_model_len} when resources.num_gpus is 0"
        value = str(engine.max_num_batched_tokens)
        yield Problem(
            f"{place}.engine.max_num_batched_tokens", value, rule, "raise it, or lower max_model_len", "WRPO-C017"
        )
    own = OWN_ENGINE_ARGS | ({"distributed_executor_backend"} if resources.num_nodes > 1 else set())
    for name in sorted(set(engine.extra_args) & own):
        rule = "this argument has a field of its own or is set by the run"
        field = f"{place}.engine.extra_args.{name}"
        yield Problem(field, shown(engine.extra_args[name]), rule, "remove it from extra_args", "WRPO-C018")


def _trainings(config: FuseConfig) -> Iterator[Problem]:
    for place, train in (("sft", config.sft), ("wrpo", config.wrpo)):
        for rules in (_training, _sharding, _kernels, _own_settings):
            yield from rules(place, train)


def _training(place: str, train: TrainConfig) -> Iterator[Problem]:
    if train.global_batch_size < train.num_workers:
        rule = f"must be at least num_workers = {train.num_workers}, or some workers have no rows"
        fix = "raise it, or lower num_workers"
        yield Problem(f"{place}.global_batch_size", str(train.global_batch_size), rule, fix, "WRPO-C019")
    if train.head_kernel == "cut_cross_entropy" and (train.num_gpus_per_worker == 0 or train.precision != "bf16"):
        rule = "its kernel runs on a GPU in bf16 alone"
        fix = "set num_gpus_per_worker: 1 and precision: bf16, or head_kernel: chunked"
        yield Problem(f"{place}.head_kernel", train.head_kernel, rule, fix, "WRPO-C037")
    if train.accelerator_type and not train.num_gpus_per_worker:
        rule, fix = "is a type of GPUs, and workers take none", "set num_gpus_per_worker: 1, or remove accelerator_type"
        yield Problem(f"{place}.accelerator_type", train.accelerator_type, rule, fix, "WRPO-C033")
    if train.max_prompt_length >= train.max_length:
        rule = f"must be less than max_length = {train.max_length}, or no response token fits"
        fix = "lower max_prompt_length or raise max_length"
        yield Problem(f"{place}.max_prompt_length", str(train.max_prompt_length), rule, fix, "WRPO-C020")


def _sharding(place: str, train: TrainConfig) -> Iterator[Problem]:
    needed = {"none": 0, "optimizer": 1, "optimizer_and_parameters": 3}[train.offload]
    if train.zero_stage < needed:
        rule = f"needs zero_stage {needed} or more: ZeRO {train.zero_stage} does not shard what would be moved"
        fix = f"set zero_stage to {needed}, or offload to none"
        yield Problem(f"{place}.offload", train.offload, rule, fix, "WRPO-C033")
    for name in ("zero_hpz_partition_size", "zero_quantized_weights", "zero_quantized_gradients"):
        value = getattr(train, name)
        if value == type(train).model_fields[name].default:
            continue
        if train.zero_stage < 3:
            fix = f"set zero_stage to 3, or remove {name}"
            yield Problem(f"{place}.{name}", shown(value), "needs zero_stage 3, as all of ZeRO++", fix, "WRPO-C033")
        elif value is True and not train.num_gpus_per_worker:
            rule = "needs GPUs: DeepSpeed's quantisation is for CUDA alone"
            fix = f"set num_gpus_per_worker to 1, or remove {name}"
            yield Problem(f"{place}.{name}", shown(value), rule, fix, "WRPO-C033")
    if train.num_workers % train.zero_hpz_partition_size:
        rule = f"must divide num_workers = {train.num_workers}: it is the size of groups of workers"
        value = str(train.zero_hpz_partition_size)
        fix = "set it to the number of workers per node"
        yield Problem(f"{place}.zero_hpz_partition_size", value, rule, fix, "WRPO-C033")


def _kernels(place: str, train: TrainConfig) -> Iterator[Problem]:
    kernel, on_gpu = train.shared_attention, train.num_gpus_per_worker > 0
    if (kernel == "flex" and not on_gpu) or (kernel == "varlen" and not (on_gpu and train.precision == "bf16")):
        rule = "has no gradient on a CPU" if kernel == "flex" else "needs a GPU and `precision: bf16`"
        yield Problem(f"{place}.shared_attention", kernel, rule, "set it to auto", "WRPO-C033")
    if train.attention == "flash_attention_2" and (train.precision != "bf16" or not train.num_gpus_per_worker):
        rule = "needs a GPU and `precision: bf16`: its kernels are for 16 bits on CUDA"
        yield Problem(f"{place}.attention", train.attention, rule, "set attention to sdpa", "WRPO-C033")


def _own_settings(place: str, train: TrainConfig) -> Iterator[Problem]:
    """Yield a problem for every DeepSpeed setting in the free section that has a field of its own."""
    for name in OWN_DEEPSPEED_SETTINGS:
        value: Any = train.deepspeed
        for key in name.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None:
            rule = "this setting has a field of its own or is set by the run"
            yield Problem(f"{place}.deepspeed.{name}", shown(value), rule, "remove it from deepspeed", "WRPO-C018")


def _lengths(config: FuseConfig) -> Iterator[Problem]:
    for place, model in (("target", config.target), *((f"sources.{s.name}", s) for s in config.sources)):
        if isinstance(model, ModelFiles) and model.sampling.max_tokens >= model.engine.max_model_len:
            rule = f"must be less than engine.max_model_len = {model.engine.max_model_len}, or no prompt fits"
            fix = "lower sampling.max_tokens or raise engine.max_model_len"
            yield Problem(f"{place}.sampling.max_tokens", str(model.sampling.max_tokens), rule, fix, "WRPO-C020")
        if model.sampling.temperature == 0 and model.sampling.num_samples > 1:
            rule = "temperature 0 draws the same response every time"
            fix = "set num_samples to 1 or raise the temperature"
            yield Problem(f"{place}.sampling.num_samples", str(model.sampling.num_samples), rule, fix, "WRPO-C021")
    if config.target.sampling.num_samples < 2:
        rule = "the best and the worst target response must be two responses"
        fix = "set it to 2 or more (paper: 5)"
        yield Problem("target.sampling.num_samples", str(config.target.sampling.num_samples), rule, fix, "WRPO-C021")


def _reward(config: FuseConfig) -> Iterator[Problem]:
    if config.reward.type != "verifier":
        return
    if not config.reward.correct_reward > config.reward.contained_reward >= config.reward.wrong_reward:
        values = f"{config.reward.correct_reward}, {config.reward.contained_reward}, {config.reward.wrong_reward}"
        rule = "correct_reward > contained_reward >= wrong_reward must hold"
        yield Problem("reward", values, rule, "order the three rewards", "WRPO-C022")
    prompts = {"prompts": config.prompts}
    if config.evaluation:
        prompts["evaluation.prompts"] = config.evaluation.prompts
    for place, section in prompts.items():
        if section.answer_column is None:
            rule = "the verifier needs the column with the reference answers"
            yield Problem(
                f"{place}.answer_column", "null", rule, "name the column, or choose a reward model", "WRPO-C023"
            )


def _allocation(config: FuseConfig) -> Iterator[Problem]:
    allocation = config.sampling.allocation
    if allocation is None:
        return
    names = [source.name for source in config.sources]
    for name in allocation.token_costs:
        if name not in names:
            rule = f"no source has this name; there are: {', '.join(names)}"
            fix = "correct the name, or remove it"
            yield Problem(f"sampling.allocation.token_costs.{name}", name, rule, fix, "WRPO-C044")
    for source in config.sources:
        if allocation.policy == "waves" and source.sampling.num_samples == 1:
            rule = "waves draw one response of every source first, so nothing is left to decide about"
            place, fix = f"sources.{source.name}.sampling.num_samples", "raise it, or set policy to halving"
            yield Problem(place, "1", rule, fix, "WRPO-C044")
