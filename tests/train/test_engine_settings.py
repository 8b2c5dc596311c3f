"""Named fields of a training section and what they become in DeepSpeed's settings; combinations that cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import Gemma2Config, Gemma2ForCausalLM

from tests.train import runs, two_ranks
from wrpo_ray.claims import training_claim
from wrpo_ray.config import ModelFiles, WRPOConfig
from wrpo_ray.config_rules import broken_rules
from wrpo_ray.errors import ModelError, Problem
from wrpo_ray.train.engine_settings import deepspeed_settings, inference_settings, zero_stage
from wrpo_ray.train.fit import scaling_of
from wrpo_ray.train.model import load_model

ON_GPU = {"num_gpus_per_worker": 1}


def zero_settings(**fields: Any) -> dict[str, Any]:
    return deepspeed_settings(two_ranks.section(**{"deepspeed": {}, **fields}))["zero_optimization"]


@pytest.mark.parametrize(
    ("precision", "asked", "used"), [("fp32", 0, 0), ("fp32", 3, 3), ("bf16", 0, 1), ("bf16", 1, 1), ("bf16", 2, 2)]
)
def test_bfloat16_gradients_are_added_up_in_float32(precision: str, asked: int, used: int) -> None:
    train = two_ranks.section(precision=precision, zero_stage=asked)
    settings = deepspeed_settings(train)
    assert zero_stage(train) == settings["zero_optimization"]["stage"] == used
    assert settings["data_types"] == {"grad_accum_dtype": "fp32"}
    assert settings["bf16"] == {"enabled": precision == "bf16"}


def test_batch_sizes_multiply_up_and_no_step_is_counted_by_deepspeed() -> None:
    settings = deepspeed_settings(two_ranks.section(num_workers=8))
    assert settings["train_batch_size"] == 8 * settings["train_micro_batch_size_per_gpu"]
    assert settings["gradient_accumulation_steps"] == 1


@pytest.mark.parametrize(
    ("offload", "names"),
    [
        ("none", set()),
        ("optimizer", {"offload_optimizer"}),
        ("optimizer_and_parameters", {"offload_optimizer", "offload_param"}),
    ],
)
def test_offload(offload: str, names: set[str]) -> None:
    on_cpu, on_gpu = (zero_settings(zero_stage=3, offload=offload, **fields) for fields in ({}, ON_GPU))
    assert {name for name in on_gpu if name.startswith("offload")} == names
    for name in names:
        assert (on_gpu[name], on_cpu[name]) == tuple({"device": "cpu", "pin_memory": gpu} for gpu in (True, False))


def test_zero_plus_plus() -> None:
    names = ("zero_hpz_partition_size", "zero_quantized_weights", "zero_quantized_gradients")
    assert [zero_settings(zero_stage=3)[name] for name in names] == [1, False, False]
    fields: dict[str, Any] = dict(zip(names, (8, True, True), strict=True))
    settings = zero_settings(zero_stage=3, num_workers=16, **ON_GPU, **fields)
    assert [settings[name] for name in names] == [8, True, True]


def test_the_free_section_lies_over_the_derived_settings() -> None:
    settings = zero_settings(zero_stage=2, deepspeed={"zero_optimization": {"overlap_comm": True}})
    assert (settings["stage"], settings["overlap_comm"]) == (2, True)


def test_forward_passes_alone_have_no_optimizer_to_move() -> None:
    settings = inference_settings(two_ranks.section(zero_stage=3, offload="optimizer_and_parameters"))
    assert "offload_optimizer" not in settings["zero_optimization"]
    assert settings["zero_optimization"]["offload_param"]["device"] == "cpu"


def problems(fields: dict[str, Any]) -> list[Problem]:
    config = runs.make_config(Path("unused"), wrpo=fields)
    return [problem for problem in broken_rules(config) if problem.place.startswith("wrpo.")]


GPUS = {**ON_GPU, "num_workers": 4, "zero_stage": 3}


def test_workers_lie_on_gpus_of_the_type_that_is_asked_for() -> None:
    train = WRPOConfig(learning_rate=1e-6, num_workers=4, num_cpus_per_worker=3.0, **ON_GPU)
    (bundle, *others) = scaling_of(train).as_placement_group_factory().bundles[-4:]
    assert bundle == {"CPU": 3.0, "GPU": 1.0}
    assert all(other == bundle for other in others)
    typed = scaling_of(train.model_copy(update={"accelerator_type": "H100"})).as_placement_group_factory().bundles[-1]
    assert {name for name in typed if name not in bundle} == {"accelerator_type:H100"}
    assert training_claim(train.model_copy(update={"accelerator_type": "H100"})).accelerator_type == "H100"


@pytest.mark.parametrize(
    ("fields", "place", "code"),
    [
        ({"offload": "optimizer", "zero_stage": 0}, "offload", "WRPO-C033"),
        ({"offload": "optimizer_and_parameters", "zero_stage": 2}, "offload", "WRPO-C033"),
        ({"zero_hpz_partition_size": 2, "zero_stage": 2, "num_workers": 2}, "zero_hpz_partition_size", "WRPO-C033"),
        ({**GPUS, "zero_hpz_partition_size": 3}, "zero_hpz_partition_size", "WRPO-C033"),
        ({**GPUS, "zero_stage": 2, "zero_quantized_weights": True}, "zero_quantized_weights", "WRPO-C033"),
        ({**GPUS, "num_gpus_per_worker": 0, "zero_quantized_weights": True}, "zero_quantized_weights", "WRPO-C033"),
        ({**GPUS, "num_gpus_per_worker": 0, "zero_quantized_gradients": True}, "zero_quantized_gradients", "WRPO-C033"),
        ({"accelerator_type": "H100"}, "accelerator_type", "WRPO-C033"),
        ({"attention": "flash_attention_2", "precision": "bf16"}, "attention", "WRPO-C033"),
        ({**GPUS, "attention": "flash_attention_2", "precision": "fp32"}, "attention", "WRPO-C033"),
        ({"deepspeed": {"zero_optimization": {"stage": 3}}}, "deepspeed.zero_optimization.stage", "WRPO-C018"),
        ({"deepspeed": {"gradient_clipping": 0.5}}, "deepspeed.gradient_clipping", "WRPO-C018"),
        ({"deepspeed": {"optimizer": {"type": "Adam"}}}, "deepspeed.optimizer", "WRPO-C018"),
    ],
)
def test_what_cannot_be_is_refused(fields: dict[str, Any], place: str, code: str) -> None:
    (problem,) = problems(fields)
    assert (problem.place, problem.code) == (f"wrpo.{place}", code)


@pytest.mark.parametrize(
    "fields",
    [
        {"offload": "optimizer", "zero_stage": 1},
        {"offload": "optimizer_and_parameters", "zero_stage": 3, "num_workers": 2, "zero_hpz_partition_size": 2},
        {**GPUS, "zero_hpz_partition_size": 2, "zero_quantized_weights": True, "zero_quantized_gradients": True},
        {**GPUS, "attention": "flash_attention_2", "precision": "bf16"},
        {"compile": True},
        {"deepspeed": {"zero_optimization": {"overlap_comm": False}}},
    ],
)
def test_what_can_be_is_allowed(fields: dict[str, Any]) -> None:
    assert not problems(fields)


def test_attention_that_drops_soft_capping_is_refused(tmp_path: Path) -> None:
    config = Gemma2Config(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
        head_dim=8, vocab_size=32,
    )  # fmt: skip
    Gemma2ForCausalLM(config).save_pretrained(tmp_path)
    files = ModelFiles(path=str(tmp_path))
    with pytest.raises(ModelError, match=r"attn_logit_softcapping = 50\.0, which `attention: sdpa`") as raised:
        load_model(files, two_ranks.section(attention="sdpa"))
    assert raised.value.code == "WRPO-T007"
    assert "attention: eager" in (raised.value.help or "")
    assert load_model(files, two_ranks.section(attention="eager")).config.attn_logit_softcapping == 50.0
