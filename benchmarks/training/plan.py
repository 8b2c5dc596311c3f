"""Which cases are measured with which variants."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from benchmarks.training.cases import Case
from benchmarks.training.shapes import SHAPES, ModelShape, llama_8b
from benchmarks.training.variants import OURS, OURS_KERNELS, PADDED, SWITCHED_OFF, TRL, TRL_CACHED, Variant
from benchmarks.training.workloads import WORKLOADS, Workload, fixed_batch, make_batches

BATCHES, ROWS = 2, 2
PROMPT_LENGTHS = (32, 64, 128, 256, 512, 1024)
RESPONSE_COUNTS = (1, 2, 3, 5, 8)
VOCABULARIES = (2048, 8192, 32000, 128256)
# The growth tables: one prompt, and responses of so many tokens; for the count of responses a prompt of so many.
_RESPONSE_TOKENS, _PROMPT_TOKENS = 128, 256
# About 2048 tokens in three quadruples.
_GPU_WORKLOAD, _GPU_ROWS = Workload(142, 180), 3


class Measurement(NamedTuple):
    """One case: `table` says where its records go."""

    table: str
    case: Case
    variants: tuple[Variant, ...]
    rounds: int
    memory: bool = True


def quick_plan() -> Iterator[Measurement]:
    """Yield about a minute's worth: every target but the growth with the vocabulary, roughly."""
    for model in SHAPES:
        yield Measurement("main", main_case("uf", model), (PADDED, TRL, OURS), rounds=2)


def full_plan(rounds: int) -> Iterator[Measurement]:
    """Yield all that is measured on a CPU."""
    for model in SHAPES:
        for workload in WORKLOADS:
            variants = (PADDED, TRL, TRL_CACHED, OURS, *SWITCHED_OFF)
            yield Measurement("main", main_case(workload, model), variants, rounds)
    yield from growth_plan()


def growth_plan() -> Iterator[Measurement]:
    """Yield what grows with prompt length, number of responses, and vocabulary."""
    shape = SHAPES["2k"]
    prompts = [fixed_batch(length, _RESPONSE_TOKENS, 3, shape.vocab_size) for length in PROMPT_LENGTHS]
    yield Measurement("prompt tokens", Case(shape, prompts), (PADDED, TRL_CACHED, OURS), rounds=3, memory=False)
    counts = [fixed_batch(_PROMPT_TOKENS, _RESPONSE_TOKENS, count, shape.vocab_size) for count in RESPONSE_COUNTS]
    yield Measurement("responses per prompt", Case(shape, counts), (PADDED, OURS), rounds=3, memory=False)
    for vocabulary in VOCABULARIES:
        shape = ModelShape(vocabulary, layers=4)
        fields = {"vocabulary": vocabulary, "head_gradient_mib": shape.head_parameters * 4 / 2**20}
        case = Case(shape, make_batches(WORKLOADS["uf"], vocabulary, 1, ROWS), fields=fields)
        yield Measurement("vocabulary", case, (PADDED, TRL_CACHED, OURS), rounds=1)


def main_case(workload: str, model: str) -> Case:
    """Return a case of the main table."""
    batches = make_batches(WORKLOADS[workload], SHAPES[model].vocab_size, BATCHES, ROWS)
    return Case(SHAPES[model], batches, fields={"workload": workload, "model": model})


def gpu_plan(layers: int, rounds: int) -> Iterator[Measurement]:
    """Yield the 8B-shaped model in bf16; also both attention kernels of ours."""
    shape = llama_8b(layers)
    batches = make_batches(_GPU_WORKLOAD, shape.vocab_size, 1, _GPU_ROWS)
    case = Case(shape, batches, device="cuda", dtype="bfloat16", fields={"model": f"8B shape, {layers} layers"})
    yield Measurement("gpu", case, (PADDED, TRL, TRL_CACHED, *OURS_KERNELS), rounds)
