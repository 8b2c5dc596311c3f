"""Model shapes and what follows from them by arithmetic: parameters, the FLOPs a step cannot do without, MFU."""

from __future__ import annotations

from dataclasses import dataclass

# Dense bf16 FLOP/s without sparsity: NVIDIA's data sheets of the A100 (312), H100 SXM and H200 SXM (989).
PEAK_BF16_FLOPS = {"A100": 312e12, "H100": 989e12, "H200": 989e12}


@dataclass(frozen=True)
class ModelShape:
    """A Llama with an untied head and no biases."""

    vocab_size: int
    hidden: int = 256
    layers: int = 8
    heads: int = 8
    kv_heads: int = 4
    intermediate: int = 704

    @property
    def layer_parameters(self) -> int:
        """Weights of one layer that take part in matrix products."""
        kv_width = self.hidden * self.kv_heads // self.heads
        return self.hidden * (2 * self.hidden + 2 * kv_width + 3 * self.intermediate)

    @property
    def head_parameters(self) -> int:
        return self.hidden * self.vocab_size

    @property
    def gemm_parameters(self) -> int:
        """N: all weights that take part in matrix products; the input embedding, a lookup, is none of them."""
        return self.layers * self.layer_parameters + self.head_parameters


# 2k: the head has 8 % of N, as in an 8B model (7 %). 32k: the head outweighs the layers.
SHAPES = {"2k": ModelShape(vocab_size=2048), "32k": ModelShape(vocab_size=32000, layers=4)}


def llama_8b(layers: int) -> ModelShape:
    """Return the shape of Llama 3 8B with that many of its 32 layers."""
    return ModelShape(128256, hidden=4096, layers=layers, heads=32, kv_heads=8, intermediate=14336)


def flop_limit(shape: ModelShape, unique_tokens: int) -> int:
    """Return 6 N (P + 3R): forward and backward of every token once, N as `gemm_parameters`."""
    return 6 * shape.gemm_parameters * unique_tokens


def peak_flops(device_name: str) -> float | None:
    """Return the peak bf16 FLOP/s of a GPU by the name that torch gives it; None for one that is not in the table."""
    return next((peak for name, peak in PEAK_BF16_FLOPS.items() if name in device_name), None)


def mfu(flops: float, seconds: float, peak: float) -> float:
    """Return the model FLOPs utilization: useful FLOPs (`flop_limit`, not executed ones) over what the GPU could do."""
    return flops / seconds / peak
