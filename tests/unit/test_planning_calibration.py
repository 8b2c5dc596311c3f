"""The planner against published measurements, and the worked example that its efficiencies were checked with."""

import statistics

import pytest

from wrpo_ray.planning import passes
from wrpo_ray.planning.accelerators import ACCELERATORS
from wrpo_ray.planning.generation import Engine, Requests, generation
from wrpo_ray.planning.known_models import KNOWN, known_shape
from wrpo_ray.planning.shapes import ModelShape, shape_of

# Output tokens per second, all in FP8, of TensorRT-LLM 1.0 at maximum load:
# https://github.com/NVIDIA/TensorRT-LLM/blob/00f37686aa854010d68bcbd0f4ab000221541ca6/docs/source/performance/perf-overview.md
# tokens in, tokens out: 8B on 1 x H200, 8B on 1 x H100, 70B on 1 x H200, 70B on 2 x H100.
PUBLISHED = {
    (128, 2048): (26221, 22714, 4336, 6651),
    (128, 4096): (18027, 14325, 2872, 4199),
    (500, 2000): (20770, 17660, 3666, 5222),
    (1000, 1000): (17744, 15220, 2909, 4205),
    (1000, 2000): (16828, 13899, 2994, 4146),
    (2048, 128): (3538, 3450, 442, 762),
    (2048, 2048): (12194, 9305, 2003, 3082),
}
# The other rows of the table were no part of the fit.
HELD_OUT = {
    (128, 128): (27911, 28312, 3803, 6378),
    (5000, 500): (3902, 3459, 566, 898),
    (20000, 2000): (1804, 1351, 283, 437),
}
LLAMA_8B, LLAMA_70B = "meta-llama/Meta-Llama-3-8B-Instruct", "meta-llama/Meta-Llama-3-70B-Instruct"
COLUMNS = ((LLAMA_8B, "H200", 1), (LLAMA_8B, "H100", 1), (LLAMA_70B, "H200", 1), (LLAMA_70B, "H100", 2))


def shape(path: str) -> ModelShape:
    found = known_shape(path)
    assert found is not None
    return found


def engine(path: str, accelerator: str, gpus: int, width: float = 2.0, max_num_seqs: int = 1024) -> Engine:
    """Return an engine with cache and weights of `width` bytes a number, and 90 % of the memory."""
    model, facts = shape(path), ACCELERATORS[accelerator]
    assert facts.memory is not None
    return Engine(
        gpus=gpus,
        flops=facts.flops("fp8" if width == 1 else "bf16"),
        bandwidth=facts.bandwidth,
        memory=0.9 * gpus * facts.memory,
        parameters=model.parameters,
        active_parameters=model.active_parameters,
        weight_bytes=width,
        kv_bytes=model.kv_width * width,
        max_num_seqs=max_num_seqs,
    )


def measured_over_planned(table: dict[tuple[int, int], tuple[int, ...]]) -> list[float]:
    """Return one ratio of tokens per second for each point."""
    ratios = []
    for (tokens_in, tokens_out), row in table.items():
        for (path, accelerator, gpus), measured in zip(COLUMNS, row, strict=True):
            requests = Requests(3000, 1, tokens_in, tokens_out)
            made = generation(engine(path, accelerator, gpus, width=1.0), requests)
            ratios.append(measured * (made.gpu_seconds / gpus) / requests.output_tokens)
    return ratios


def test_28_published_points() -> None:
    ratios = measured_over_planned(PUBLISHED)
    assert len(ratios) == 28
    assert statistics.median(ratios) == pytest.approx(0.98, abs=0.01)
    assert min(ratios) == pytest.approx(0.64, abs=0.01)
    assert max(ratios) == pytest.approx(1.20, abs=0.01)


def test_points_that_were_no_part_of_the_fit() -> None:
    ratios = measured_over_planned(HELD_OUT)
    assert len(ratios) == 12
    assert statistics.median(ratios) == pytest.approx(1.09, abs=0.02)
    assert min(ratios) > 0.75
    assert max(ratios) < 1.27


# Source, GPUs, sequences, what bounds it, output tokens per GPU and second, H100-hours: 60,000 prompts of 200 tokens,
# 5 responses of 450 tokens, up to 1024 sequences, cache split over all GPUs.
WORKED_EXAMPLE = [
    ("mistralai/Mistral-Large-Instruct-2407", 4, 448, "compute", 2187, 17.1),
    ("Qwen/Qwen2-72B-Instruct", 4, 1024, "compute", 3688, 10.2),
    (LLAMA_70B, 4, 1024, "compute", 3797, 9.9),
    ("deepseek-ai/DeepSeek-V2-Chat-0628", 8, 1024, "memory bandwidth", 3981, 9.4),
    ("deepseek-ai/DeepSeek-Coder-V2-Instruct-0724", 8, 1024, "memory bandwidth", 3981, 9.4),
    ("google/gemma-2-27b-it", 1, 176, "KV capacity", 4111, 9.1),
    ("01-ai/Yi-1.5-34B-Chat", 2, 1024, "compute", 7794, 4.8),
    ("google/gemma-2-9b-it", 1, 586, "KV capacity", 10898, 3.4),
    ("internlm/internlm2_5-20b-chat", 1, 618, "KV capacity", 12381, 3.0),
    ("microsoft/Phi-3-medium-4k-instruct", 1, 810, "KV capacity", 15259, 2.5),
]


@pytest.mark.parametrize(("path", "gpus", "batch", "bound", "speed", "hours"), WORKED_EXAMPLE)
def test_worked_example(path: str, gpus: int, batch: int, bound: str, speed: float, hours: float) -> None:
    requests = Requests(60_000, 5, 200, 450)
    made = generation(engine(path, "H100", gpus), requests)
    assert made.batch == pytest.approx(batch, rel=0.01)
    assert made.bound == bound
    assert requests.output_tokens / made.gpu_seconds == pytest.approx(speed, rel=0.02)
    assert made.gpu_seconds / 3600 == pytest.approx(hours, rel=0.02)


@pytest.mark.parametrize(
    ("max_num_seqs", "hours"),
    [(128, 271), (256, 150), (512, 97), (1024, 79), (2048, 70)],
)
def test_batch_size_decides(max_num_seqs: int, hours: float) -> None:
    """The example's ten sources together, by sequences side by side."""
    requests = Requests(60_000, 5, 200, 450)
    engines = [engine(path, "H100", gpus, max_num_seqs=max_num_seqs) for path, gpus, *_ in WORKED_EXAMPLE]
    total = sum(generation(each, requests).gpu_seconds for each in engines) / 3600
    assert total == pytest.approx(hours, rel=0.02)


def hours(flops: float, efficiency: float) -> float:
    return flops / (ACCELERATORS["H100"].bf16 * efficiency) / 3600


def test_other_stages_of_the_example() -> None:
    """H100-hours of an 8B model: scoring 3 million responses, SFT, WRPO padded and shared, and its reference."""
    tokens = passes.scoring_tokens(60_000, 50, 200, 450, shared=True)
    assert hours(passes.forward_flops(8.03e9, tokens), passes.SCORING_EFFICIENCY) == pytest.approx(13.7, abs=0.05)
    unshared = passes.scoring_tokens(60_000, 50, 200, 450, shared=False)
    assert unshared / tokens == pytest.approx(1.43, abs=0.005)
    assert hours(6 * 8.03e9 * 20_000 * 650, passes.SFT_EFFICIENCY) == pytest.approx(0.44, abs=0.005)
    padded = 40_000 * passes.quadruple_tokens(200, 450, shared=False)
    assert hours(10 * 8.03e9 * padded, passes.PREFERENCE_EFFICIENCY) == pytest.approx(7.0, abs=0.05)
    shared = 40_000 * passes.quadruple_tokens(200, 450, shared=True)
    assert hours(8 * 8.03e9 * shared, passes.PREFERENCE_EFFICIENCY) == pytest.approx(3.2, abs=0.05)


@pytest.mark.parametrize("path", KNOWN)
def test_table_of_shapes_agrees_with_itself(path: str) -> None:
    """The parameters counted from the sizes are those that the models' pages tell."""
    sizes, billions = KNOWN[path]
    assert shape_of(sizes).parameters == pytest.approx(billions * 1e9, rel=0.004)


def test_active_parameters_of_a_mixture_of_experts() -> None:
    model = shape("deepseek-ai/DeepSeek-V2-Chat-0628")
    assert model.active_parameters == pytest.approx(21.4e9, rel=0.01)
    # One latent vector of 512 and 64 rotary numbers in each of 60 layers, for all heads.
    assert (model.kv_width, model.kv_heads) == (60 * 576, 1)
