"""What fits into an accelerator's memory, by numbers worked out by hand; what is proposed fits, and is the least."""

from typing import Any

import pytest

from wrpo_ray.config import EngineConfig, ResourcesConfig, SFTConfig, TrainConfig, TransformersRewardConfig, WRPOConfig
from wrpo_ray.planning.accelerators import ACCELERATORS
from wrpo_ray.planning.engine_memory import engine_fit, kv_bytes, kv_copies, reward_fit, usable_memory
from wrpo_ray.planning.known_models import known_shape
from wrpo_ray.planning.shapes import ModelShape
from wrpo_ray.planning.training_memory import host_bytes, reference_fit, training_fit, training_parts

H100 = ACCELERATORS["H100"]


def shape(name: str = "Meta-Llama-3-8B-Instruct") -> ModelShape:
    found = known_shape(name)
    assert found is not None
    return found


def sft(**fields: Any) -> TrainConfig:
    return SFTConfig(learning_rate=1e-5, num_workers=8, num_gpus_per_worker=1, **fields)


def gigabytes(train: TrainConfig) -> dict[str, float]:
    return {name: size / 1e9 for name, size in training_parts(shape(), train)}


@pytest.mark.parametrize(
    ("stage", "weights", "gradients", "optimizer"),
    # 8.03e9 numbers in 2, 4 and 12 bytes; 0 is taken for 1 in bf16; 3 keeps 1e9 gathered numbers besides its share.
    [(0, 16.06, 32.12, 12.045), (1, 16.06, 32.12, 12.045), (2, 16.06, 4.015, 12.045), (3, 4.0075, 4.015, 12.045)],
)
def test_zero_stages(stage: int, weights: float, gradients: float, optimizer: float) -> None:
    parts = gigabytes(sft(zero_stage=stage))
    assert parts["weights"] == pytest.approx(weights)
    assert parts["gradients"] == pytest.approx(gradients)
    assert parts["optimizer"] == pytest.approx(optimizer)


def test_fp32_without_sharding() -> None:
    parts = gigabytes(sft(zero_stage=0, precision="fp32"))
    assert (parts["weights"], parts["gradients"], parts["optimizer"]) == pytest.approx((32.12, 32.12, 64.24))


def test_offload_and_lora() -> None:
    offloaded = sft(zero_stage=3, offload="optimizer_and_parameters")
    parts = gigabytes(offloaded)
    assert (parts["weights"], parts["gradients"], parts["optimizer"]) == pytest.approx((2.0, 0.0, 0.0))
    assert host_bytes(shape(), offloaded) == pytest.approx(18 * 8.03e9 / 8)
    assert host_bytes(shape(), sft()) == 0
    # Rank 16 beside q, k, v, o, gate, up and down of 32 layers: peft tells 41,943,040 for Llama-3-8B.
    adapters = sft(zero_stage=2, lora={"rank": 16})
    assert gigabytes(adapters)["optimizer"] == pytest.approx(41_943_040 * 12 / 8 / 1e9)


def test_activations_by_micro_batch_and_checkpointing() -> None:
    whole = gigabytes(sft(micro_batch_tokens=8192))["activations"]
    assert gigabytes(sft(micro_batch_tokens=4096))["activations"] == pytest.approx(whole / 2)
    # Inputs of the layers, and one layer, instead of all layers.
    layer = 8 * 4096 + 8 * 4096 + 4 * 14336
    checkpointed = gigabytes(sft(micro_batch_tokens=8192, activation_checkpointing=True))["activations"]
    assert checkpointed / whole == pytest.approx((32 * 4096 + layer) / (32 * layer))
    # One row is never cut: three responses of up to 2048 tokens.
    row = WRPOConfig(learning_rate=1e-6, micro_batch_tokens=1024, num_gpus_per_worker=1)
    assert gigabytes(row)["activations"] == pytest.approx(whole * 6144 / 8192)


@pytest.mark.parametrize(
    ("train", "accelerator"),
    [
        (sft(zero_stage=1), "H100"),
        (sft(zero_stage=2), "H100"),
        (sft(zero_stage=0, micro_batch_tokens=65536), "A100-80G"),
        (sft(zero_stage=3), "A100-40G"),
        (sft(zero_stage=3), "L40S"),
        (WRPOConfig(learning_rate=1e-6, num_workers=4, num_gpus_per_worker=1, zero_stage=1), "H100"),
    ],
)
def test_proposed_training_settings_fit(train: TrainConfig, accelerator: str) -> None:
    fit = training_fit("sft", shape(), train, ACCELERATORS[accelerator])
    assert not fit.fits
    assert "needs" in fit.reason
    settings, _, _ = fit.fix.partition(" (")
    changes: dict[str, Any] = dict(part.split(": ") for part in settings.split(", "))
    typed = {
        name: value == "true" if value in ("true", "false") else int(value) if value.isdecimal() else value
        for name, value in changes.items()
    }
    # The proposal is needed whole: none of its changes can be left out.
    assert training_fit("sft", shape(), train.model_copy(update=typed), ACCELERATORS[accelerator]).fits
    for name in typed:
        rest = {key: value for key, value in typed.items() if key != name}
        assert not training_fit("sft", shape(), train.model_copy(update=rest), ACCELERATORS[accelerator]).fits


def test_what_cannot_be_helped_by_settings() -> None:
    train = sft(zero_stage=3, micro_batch_tokens=65536, max_length=65536)
    fit = training_fit("sft", shape("Meta-Llama-3-70B-Instruct"), train, ACCELERATORS["A10G"])
    assert fit.fix == "more workers, lora, or a larger accelerator"


def test_offload_tells_what_it_takes_of_the_nodes() -> None:
    fit = training_fit("sft", shape("Meta-Llama-3-70B-Instruct"), sft(zero_stage=3), ACCELERATORS["A10G"])
    # 18 bytes of 70.6e9 numbers on 8 workers.
    wanted = "activation_checkpointing: true, offload: optimizer_and_parameters (159 GB of its node per worker)"
    assert fit.fix == wanted


def test_reference_shards_when_it_must() -> None:
    train = WRPOConfig(learning_rate=1e-6, num_workers=8, num_gpus_per_worker=1, zero_stage=2)
    assert reference_fit("wrpo", shape(), train, H100).fits
    fit = reference_fit("wrpo", shape("gemma-2-27b-it"), train, ACCELERATORS["L40S"])
    assert fit.fix.startswith("zero_stage: 3")


def engine(**fields: Any) -> EngineConfig:
    return EngineConfig(**{"max_model_len": 8192, "max_num_seqs": 256, **fields})


@pytest.mark.parametrize(
    ("model", "size", "fix"),
    [
        ("Mistral-Large-Instruct-2407", 2, "engine.tensor_parallel_size: 4 with resources.num_gpus: 4"),
        ("Meta-Llama-3-70B-Instruct", 1, "engine.tensor_parallel_size: 4 with resources.num_gpus: 4"),
        ("DeepSeek-V2-Chat-0628", 4, "engine.tensor_parallel_size: 8 with resources.num_gpus: 8"),
        ("Meta-Llama-3-70B-Instruct", 2, "engine.tensor_parallel_size: 4 with resources.num_gpus: 4"),
    ],
)
def test_smallest_tensor_parallel_size(model: str, size: int, fix: str) -> None:
    fit = engine_fit("sources.x", shape(model), engine(tensor_parallel_size=size), 2.0, H100)
    assert "needs" in fit.reason
    assert fit.fix.split(", or ")[0] == fix


def test_a_shorter_context_or_another_accelerator_may_do() -> None:
    # 27.2 GB of weights in 8 bits on 40 GB; the cache of one sequence of 32k takes 12 GB.
    wide = engine(max_model_len=32768)
    fit = engine_fit("sources.x", shape("gemma-2-27b-it"), wide, 1.0, ACCELERATORS["A100-40G"])
    assert "cache of one sequence 12.3" in fit.reason
    ways = fit.fix.split(", or ")
    assert ways[0].startswith("engine.tensor_parallel_size: 2")
    assert ways[2] == "L40S instead of A100-40G"
    length = int(ways[1].removeprefix("engine.max_model_len: "))
    smaller = engine(max_model_len=length)
    larger = engine(max_model_len=length + 256)
    assert engine_fit("x", shape("gemma-2-27b-it"), smaller, 1.0, ACCELERATORS["A100-40G"]).fits
    assert not engine_fit("x", shape("gemma-2-27b-it"), larger, 1.0, ACCELERATORS["A100-40G"]).fits


@pytest.mark.parametrize(
    ("model", "size", "reason"),
    [
        ("Phi-3-medium-4k-instruct", 4, "tensor_parallel_size 4 and its 10 key-value heads do not divide each other"),
        ("Yi-1.5-34B-Chat", 16, "tensor_parallel_size 16 does not divide its 56 attention heads"),
    ],
)
def test_heads_must_divide(model: str, size: int, reason: str) -> None:
    fit = engine_fit("x", shape(model), engine(tensor_parallel_size=size, max_model_len=4096), 2.0, H100)
    assert fit.reason == reason
    assert fit.fix.startswith("engine.tensor_parallel_size: ")


def test_cache() -> None:
    # 2 * 32 layers * 8 heads * 128 numbers of 2 bytes.
    assert kv_bytes(shape(), engine()) == 131072
    assert kv_bytes(shape(), engine(extra_args={"kv_cache_dtype": "fp8"})) == 65536
    assert kv_copies(shape(), engine(tensor_parallel_size=8)) == 1
    assert kv_copies(shape(), engine(tensor_parallel_size=16)) == 2
    # MLA: every accelerator holds the one latent vector.
    assert kv_copies(shape("DeepSeek-V2-Chat-0628"), engine(tensor_parallel_size=8)) == 8
    assert usable_memory(engine(), ResourcesConfig(num_gpus=2), H100) == pytest.approx(144e9)
    assert usable_memory(engine(gpu_memory_utilization=0.4), ResourcesConfig(num_gpus=0.5), H100) == pytest.approx(32e9)
    assert usable_memory(engine(), ResourcesConfig(), ACCELERATORS["CPU"]) is None


def test_reward_model_with_a_batch_that_is_too_large() -> None:
    reward = TransformersRewardConfig(
        type="transformers", path="./r", max_batch_tokens=131072, resources=ResourcesConfig(num_gpus=1)
    )
    fit = reward_fit("reward", shape("ArmoRM-Llama3-8B-v0.1"), reward, ACCELERATORS["A10G"])
    assert "one pass 15.6" in fit.reason
    tokens = int(fit.fix.removeprefix("max_batch_tokens: "))
    assert tokens == 32768
    smaller = reward.model_copy(update={"max_batch_tokens": tokens})
    assert reward_fit("reward", shape("ArmoRM-Llama3-8B-v0.1"), smaller, ACCELERATORS["A10G"]).fits
