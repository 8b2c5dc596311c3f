"""Engine arguments that are not let through, and a look at every argument that vLLM has."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_config import MINIMAL, parsed
from wrpo_ray.config import EngineConfig, ModelFiles
from wrpo_ray.config_engine_rules import (
    CODE_ENVIRONMENT,
    DENIED_ENGINE_ARGUMENTS,
    DENIED_ENVIRONMENT,
    RULES_BY_VALUE,
    denied_arguments,
)
from wrpo_ray.config_rules import OWN_ENGINE_ARGS
from wrpo_ray.engines.vllm_engine import engine_arguments
from wrpo_ray.errors import ConfigError, Problem

# Of vLLM 0.32, looked at and let through: sizes, kernels, caches, schedules, statistics. Mappings among them are
# searched for keys that are not let through.
LET_THROUGH = """
enable_return_routed_experts return_sampling_mask served_model_name skip_tokenizer_init tokenizer_mode download_dir
safetensors_load_strategy safetensors_prefetch_num_threads safetensors_prefetch_block_size config_format kv_cache_dtype
cudagraph_capture_sizes max_cudagraph_capture_size ir_op_priority distributed_timeout_seconds
cpu_distributed_timeout_seconds numa_bind numa_bind_nodes numa_bind_cpus device_ids prefill_context_parallel_size
decode_context_parallel_size dcp_comm_backend dcp_q_replicate dcp_kv_cache_interleave_size cp_kv_cache_interleave_size
enable_hc_sp enable_expert_parallel enable_batch_sharded_sampling enable_ep_weight_filter moe_backend linear_backend
sparse_indexer_topk_backend all2all_backend elastic_ep_max_dp_size enable_dbo ubatch_size dbo_decode_token_threshold
dp_sync_interval dbo_prefill_token_threshold disable_nccl_for_dp_synchronization eplb_config enable_eplb
expert_placement_strategy _api_process_count _api_process_rank max_parallel_loading_workers block_size
enable_prefix_caching prefix_caching_hash_algo prefix_cache_retention_interval disable_sliding_window
disable_cascade_attn offload_backend cpu_offload_gb cpu_offload_params offload_group_size offload_num_in_group
offload_prefetch_step offload_params kv_cache_memory_bytes max_num_scheduled_tokens long_prefill_token_threshold
long_prefill_token_threshold_adaptive max_num_active_seqs max_num_queued_reqs max_num_queued_tokens max_logprobs
use_fp64_gumbel enable_trace_replay disable_log_stats aggregate_engine_logging hf_overrides quantization_config
allow_deprecated_quantization disable_custom_all_reduce enable_shm_tensor_arena language_model_only limit_mm_per_prompt
interleave_mm_strings mm_processor_cache_gb mm_processor_cache_type mm_hasher_algorithm mm_shm_cache_max_object_size_mb
mm_encoder_only mm_encoder_tp_mode mm_encoder_attn_backend mm_encoder_attn_dtype mm_encoder_fp8_scale_save_margin
renderer_num_workers skip_mm_profiling video_pruning_rate video_pruning_method mm_tensor_ipc mm_processor_device
mm_ipc_gpu_memory_gb mm_device_do_normalize max_loras max_lora_rank fully_sharded_loras max_cpu_loras lora_dtype
lora_target_modules enable_tower_connector_lora specialize_active_lora enable_mixed_moe_lora_format
enable_moe_shared_loras max_lora_cls_labels ray_workers_use_nsight num_gpu_blocks_override model_loader_extra_config
ignore_patterns enable_chunked_prefill disable_chunked_mm_input scheduler_reserve_full_isl prefill_schedule_interval
watermark disable_hybrid_kv_cache_manager structured_outputs_config aux_output_config reasoning_parser spec_method
spec_tokens watermark_config diffusion_config show_hidden_metrics_for_version collect_detailed_traces
per_request_spec_decode_metrics kv_cache_metrics kv_cache_metrics_sample custom_histogram_buckets cudagraph_metrics
enable_layerwise_nvtx_tracing enable_mfu_metrics enable_logging_iteration_details jit_monitor_mode jit_monitor_verbose
enable_mm_processor_stats scheduling_policy pooler_config attention_config engram_config mamba_config kernel_config
enable_flashinfer_autotune log_level reasoning_config enable_sleep_mode sleep_mode_offload_cudagraph
sleep_preserve_parameter_names enable_cumem_allocator enable_nccl_comm_suspend override_generation_config model_impl
attention_backend kv_cache_dtype_skip_layers mamba_cache_dtype mamba_ssm_cache_dtype mamba_block_size prefix_match_unit
mamba_cache_mode enable_mamba_shared_prefix_checkpoint replayssm_buffer_len use_replayssm mamba_backend
mamba_ssu_algorithm enable_mamba_cache_stochastic_rounding mamba_cache_philox_rounds use_tqdm_on_load
pt_load_map_location async_scheduling stream_interval kv_sharing_fast_prefill swa_bounded_replay optimization_level
performance_mode kv_offloading_size tokens_only shutdown_timeout fail_on_environ_validation gdn_prefill_backend
kda_prefill_backend kda_decode_backend
"""


def problems_of(*overrides: str) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        parsed(MINIMAL, *overrides)
    return caught.value.problems


def vllms_arguments() -> set[str]:
    """Return the fields of vLLM's EngineArgs from its source: importing it takes long, and tells no more."""
    found = importlib.util.find_spec("vllm")
    if found is None or not found.submodule_search_locations:
        pytest.skip("vLLM is not installed")
    source = Path(next(iter(found.submodule_search_locations))) / "engine" / "arg_utils.py"
    tree = ast.parse(source.read_text(encoding="utf-8"))
    (args,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "EngineArgs"]
    return {
        line.target.id for line in args.body if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
    }


def test_every_argument_of_vllm_was_looked_at() -> None:
    let_through, known = set(LET_THROUGH.split()), vllms_arguments()
    denied, ruled = set(DENIED_ENGINE_ARGUMENTS), set(RULES_BY_VALUE)
    assert len(known) > 150
    assert not known - denied - ruled - let_through - OWN_ENGINE_ARGS, "a new argument: may it be let through?"
    assert not (denied | ruled | let_through) - known, "vLLM has no such argument"
    assert not denied & let_through
    assert not denied & OWN_ENGINE_ARGS


@pytest.mark.parametrize(
    ("arguments", "place"),
    [
        ({"worker_cls": "os.system"}, "worker_cls"),
        ({"worker_extension_cls": "a.B"}, "worker_extension_cls"),
        ({"logits_processors": ["a:B"]}, "logits_processors"),
        ({"kv_transfer_config": {"kv_connector": "MooncakeConnector", "kv_role": "kv_both"}}, "kv_transfer_config"),
        ({"kv_offloading_backend": "lmcache"}, "kv_offloading_backend"),
        ({"load_format": "pt"}, "load_format"),
        ({"load_format": "auto"}, "load_format"),
        ({"load_format": ["pt"]}, "load_format"),
        ({"load_format": "tensorizer"}, "load_format"),
        ({"model_loader_extra_config": {"tensorizer_uri": "http://x"}}, "model_loader_extra_config.tensorizer_uri"),
        ({"hf_overrides": {"auto_map": {"AutoConfig": "x--y.Z"}}}, "hf_overrides.auto_map"),
        ({"hf_overrides": {"text_config": {"_attn_implementation": "a/b"}}},
         "hf_overrides.text_config._attn_implementation"),
        ({"hf_overrides": {"_attn_implementation_internal": "a/b"}}, "hf_overrides._attn_implementation_internal"),
        ({"distributed_executor_backend": "my.module.Executor"}, "distributed_executor_backend"),
        ({"generation_config": "organisation/other"}, "generation_config"),
        ({"speculative_config": {"model": "organisation/draft", "num_speculative_tokens": 3}}, "speculative_config"),
        ({"speculative_config": {"method": "mtp", "code-revision": "main"}}, "speculative_config.code-revision"),
        ({"speculative_config": {"method": "mtp", "draft_load_config": {"load_format": "pt"}}},
         "speculative_config.draft_load_config"),
        ({"compilation_config": {"backend": "my.module.backend"}}, "compilation_config"),
        ({"compilation_config": {"inductor_passes": {"a": "os.system"}}}, "compilation_config.inductor_passes"),
        ({"structured_outputs_config": {"reasoning_parser_plugin": "/a.py"}},
         "structured_outputs_config.reasoning_parser_plugin"),
        ({"mm_processor_kwargs": {"code_revision": "main"}}, "mm_processor_kwargs"),
        ({"allowed_media_domains": ["169.254.169.254"]}, "allowed_media_domains"),
        ({"allowed_local_media_path": "/"}, "allowed_local_media_path"),
        ({"enable_prompt_embeds": True}, "enable_prompt_embeds"),
        ({"log_config_file": "/logging.json"}, "log_config_file"),
        ({"master_addr": "0.0.0.0"}, "master_addr"),
        ({"data_parallel_size": 2}, "data_parallel_size"),
        ({"code_revision": "main"}, "code_revision"),
    ],
)  # fmt: skip
def test_what_is_not_let_through(arguments: dict[str, Any], place: str) -> None:
    (problem,) = denied_arguments("x", arguments)
    assert (problem.place, problem.code) == (f"x.{place}", "WRPO-C110")
    with pytest.raises(ConfigError, match="not let through"):
        engine_arguments(ModelFiles(path="/nowhere"), EngineConfig(extra_args=arguments), 0)


@pytest.mark.parametrize(
    "arguments",
    [
        {"block_size": 32, "kv_cache_dtype": "fp8"},
        {"load_format": "fastsafetensors"},
        {"distributed_executor_backend": "mp"},
        {"hf_overrides": {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}},
        {"speculative_config": {"method": "ngram", "num_speculative_tokens": 3}},
        {"compilation_config": {"mode": 3, "backend": "inductor"}},
        {"generation_config": "vllm"},
        {},
    ],
)
def test_what_is(arguments: dict[str, Any]) -> None:
    assert list(denied_arguments("x", arguments)) == []


def test_the_config_names_field_and_reason() -> None:
    problems = problems_of("target.engine.extra_args={worker_cls: a.B, hf_overrides: {auto_map: {A: b}}}")
    places = ["target.engine.extra_args.hf_overrides.auto_map", "target.engine.extra_args.worker_cls"]
    assert sorted(problem.place.rpartition("`")[0].rpartition("`")[2] for problem in problems) == places


@pytest.mark.parametrize("name", sorted(DENIED_ENVIRONMENT))
def test_variables_that_switch_protections_off(name: str) -> None:
    (problem,) = problems_of(f"target.resources.env_vars={{{name}: '1'}}")
    assert problem.code == "WRPO-C111"
    assert parsed(MINIMAL, f"target.resources.env_vars={{{name}: '0'}}")
    (problem,) = problems_of(f"cluster={{image: 'a/b:1', env: {{{name}: '1'}}}}")
    assert (problem.place, problem.code) == (f"override `cluster.env.{name}`", "WRPO-C111")


@pytest.mark.parametrize("name", sorted(CODE_ENVIRONMENT))
def test_variables_that_name_code_are_for_who_sets_up_the_nodes(name: str) -> None:
    (problem,) = problems_of(f"target.resources.env_vars={{{name}: /shared/x.so}}")
    assert problem.code == "WRPO-C111"
    assert parsed(MINIMAL, f"cluster={{image: 'a/b:1', env: {{{name}: /opt/x.so}}}}")
