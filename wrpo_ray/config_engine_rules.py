"""Engine arguments that would run code, load another model, open a connection or read other weights: refused.

The names are vLLM 0.32's (vllm/engine/arg_utils.py, EngineArgs); a test demands that each of its arguments was looked
at. The list is for mistakes and for configs of others: whoever may start jobs on a cluster may run code there anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from wrpo_ray.config_endpoint_rules import shown
from wrpo_ray.errors import ConfigError, Problem

_CODE = "it names code to be imported"
_MODEL = "it names another model or other weights, which nothing pins or compares"
_NETWORK = "it opens connections of the engine that carry pickles or that anybody may use"
_GROUP = "one replica is one engine, and Ray places it; this would open ports of its own"
_FILES = "it reads or writes files that are no part of the run"
_MEDIA = "models here read text alone"

DENIED_ENGINE_ARGUMENTS: dict[str, str] = {
    **dict.fromkeys(
        ("worker_cls", "worker_extension_cls", "scheduler_cls", "logits_processors", "model_class_overrides",
         "io_processor_plugin", "reasoning_parser_plugin", "ec_manager_config", "additional_config"), _CODE,
    ),
    **dict.fromkeys(
        ("code_revision", "hf_config_path", "model_weights", "spec_model", "default_mm_loras", "enable_lora"), _MODEL,
    ),
    **dict.fromkeys(
        ("kv_transfer_config", "kv_events_config", "ec_transfer_config", "weight_transfer_config",
         "otlp_traces_endpoint", "fault_tolerance_config", "enable_fault_tolerance", "enable_elastic_ep"), _NETWORK,
    ),
    **dict.fromkeys(
        ("master_addr", "master_port", "nnodes", "node_rank", "data_parallel_size", "data_parallel_rank",
         "data_parallel_start_rank", "data_parallel_size_local", "data_parallel_address", "data_parallel_rpc_port",
         "data_parallel_hybrid_lb", "data_parallel_external_lb", "data_parallel_multi_port_external_lb",
         "data_parallel_backend"), _GROUP,
    ),
    **dict.fromkeys(
        ("log_config_file", "logging_config", "profiler_config", "mm_encoder_fp8_scale_path",
         "mm_encoder_fp8_scale_save_path"), _FILES,
    ),
    **dict.fromkeys(
        ("allowed_local_media_path", "allowed_media_domains", "media_io_kwargs", "mm_processor_kwargs",
         "enable_mm_embeds", "enable_prompt_embeds"), _MEDIA,
    ),
}  # fmt: skip

_SAFE_FORMATS = ("safetensors", "fastsafetensors", "instanttensor")
_EXECUTORS = ("mp", "uni", "ray")
# Keys inside of arguments that are mappings, such as hf_overrides.
_DENIED_KEYS = {
    "auto_map": _CODE,
    "code_revision": _CODE,
    "trust_remote_code": _CODE,
    "custom_pipelines": _CODE,
    "reasoning_parser_plugin": _CODE,
    "inductor_passes": _CODE,
    "inductor_compile_config": _CODE,
    "attn_implementation": _CODE,
    "experts_implementation": _CODE,
    "debug_dump_path": _FILES,
    "cache_dir": _FILES,
    "tensorizer_uri": _MODEL,
    "tensorizer_dir": _MODEL,
    "tensorizer_config": _MODEL,
    "draft_load_config": _MODEL,
    "url": _NETWORK,
}


def _format(value: Any) -> str | None:
    return None if value in _SAFE_FORMATS else "weights are read as safetensors alone"


def _executor(value: Any) -> str | None:
    return None if value in _EXECUTORS else _CODE


def _generation_config(value: Any) -> str | None:
    return None if value in ("auto", "vllm") else _MODEL


def _offloading(value: Any) -> str | None:
    return None if value == "native" else _NETWORK


def _speculative(value: Any) -> str | None:
    return _MODEL if isinstance(value, Mapping) and "model" in value else None


def _compilation(value: Any) -> str | None:
    backend = value.get("backend") if isinstance(value, Mapping) else None
    return _CODE if isinstance(backend, str) and "." in backend else None


RULES_BY_VALUE: dict[str, Callable[[Any], str | None]] = {
    "load_format": _format,
    "distributed_executor_backend": _executor,
    "generation_config": _generation_config,
    "kv_offloading_backend": _offloading,
    "speculative_config": _speculative,
    "compilation_config": _compilation,
}

# They switch off what protects an engine, or make its libraries import or unpickle what they would not.
DENIED_ENVIRONMENT = frozenset(
    {
        "VLLM_ALLOW_INSECURE_SERIALIZATION",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING",
        "VLLM_LOGGING_CONFIG_PATH",
        "VLLM_SERVER_DEV_MODE",
        "VLLM_USE_MODELSCOPE",
        "PYTHONOPTIMIZE",
        "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD",
        "RAY_DATA_AUTOLOAD_PICKLE_OBJECT_SCALAR",
        "RAY_DATA_AUTOLOAD_PYEXTENSIONTYPE",
    }
)
# They have every program, or Python, run code before its own.
CODE_ENVIRONMENT = frozenset({"LD_PRELOAD", "LD_AUDIT", "PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP"})
# lm-eval's own names for models and what is loaded beside them.
_DENIED_IN_LM_EVAL = dict.fromkeys(
    ("pretrained", "revision", "subfolder", "tokenizer", "trust_remote_code", "peft", "delta", "gguf_file",
     "lora_local_path"), _MODEL,
)  # fmt: skip


def denied_arguments(place: str, arguments: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield a problem for every engine argument, or key in one, that is not let through; `place` names the mapping."""
    for name, value in arguments.items():
        if why := DENIED_ENGINE_ARGUMENTS.get(name) or _by_value(name, value):
            yield _problem(f"{place}.{name}", value, why)
            continue
        for key, inner, why in _denied_keys(value):
            yield _problem(f"{place}.{name}.{key}", inner, why)


def denied_lm_eval_arguments(place: str, arguments: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield a problem for what the arguments of lm-eval's backends must not name, vLLM's own included."""
    for name, value in arguments.items():
        if name in _DENIED_IN_LM_EVAL:
            yield _problem(f"{place}.{name}", value, _DENIED_IN_LM_EVAL[name])
    yield from denied_arguments(place, {n: v for n, v in arguments.items() if n not in _DENIED_IN_LM_EVAL})


def denied_environment(place: str, variables: Mapping[str, str], may_name_code: bool = False) -> Iterator[Problem]:
    """Yield a problem for every environment variable that switches a protection off or, of a replica, names code.

    may_name_code: whoever sets up a cluster may also say what its programs load.
    """
    for name, value in variables.items():
        if name in DENIED_ENVIRONMENT and value not in ("", "0"):
            rule = "it switches off what protects the engine from code in data, weights or messages"
            yield Problem(f"{place}.{name}", shown(value), rule, "remove it", "WRPO-C111")
        elif name in CODE_ENVIRONMENT and not may_name_code:
            fix = "set it in the environment of the nodes, if they need it"
            rule = "it names code to be run, which a config does not"
            yield Problem(f"{place}.{name}", shown(value), rule, fix, "WRPO-C111")


def require_allowed(arguments: Mapping[str, Any]) -> None:
    """Raise ConfigError for engine arguments that must not reach an engine, however they came there."""
    if problems := list(denied_arguments("engine.extra_args", arguments)):
        raise ConfigError.of("the engine cannot be started", problems)


def _by_value(name: str, value: Any) -> str | None:
    rule = RULES_BY_VALUE.get(name)
    return rule(value) if rule else None


def _problem(place: str, value: Any, why: str) -> Problem:
    return Problem(place, shown(value), f"this engine argument is not let through: {why}", "remove it", "WRPO-C110")


def _denied_keys(value: Any, place: str = "") -> Iterator[tuple[str, Any, str]]:
    """Yield place, value and reason of every key at any depth that is not let through."""
    if isinstance(value, Mapping):
        for key, child in value.items():
            here = f"{place}.{key}" if place else str(key)
            # vLLM reads `code-revision` as `code_revision` (EngineArgs.create_speculative_config).
            if why := _DENIED_KEYS.get(str(key).replace("-", "_").lstrip("_").removesuffix("_internal")):
                yield here, child, why
            else:
                yield from _denied_keys(child, here)
    elif isinstance(value, (list, tuple)):
        for number, child in enumerate(value):
            yield from _denied_keys(child, f"{place}.{number}" if place else str(number))
