"""Where the time of one step goes, by torch.profiler."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch.profiler
from torch.profiler import ProfilerActivity

# Parts of the names of matrix-product kernels: cuBLAS (gemm, nvjet on Hopper), CUTLASS, and torch's operators on CPU.
_GEMM_NAMES = ("gemm", "nvjet", "cutlass", "aten::mm", "aten::addmm", "aten::bmm")
_ATTENTION_NAMES = ("flash", "fmha", "attention")
_TOP = 15


def is_gemm(name: str) -> bool:
    """Tell a matrix product by its kernel's name; the products inside attention kernels are not counted."""
    lowered = name.lower()
    return any(part in lowered for part in _GEMM_NAMES) and not any(part in lowered for part in _ATTENTION_NAMES)


def shares(times: Iterable[tuple[str, float]]) -> dict[str, Any]:
    """Return the share of matrix products in (name, own time) pairs, and the names that cost most with their shares."""
    times = list(times)
    total = sum(time for _, time in times)
    if total <= 0:
        raise ValueError("the profile has no time in it")
    costly = sorted(times, key=lambda item: -item[1])[:_TOP]
    return {
        "gemm_share": sum(time for name, time in times if is_gemm(name)) / total,
        "top": [[name, time / total] for name, time in costly],
    }


def start(cuda: bool) -> Any:
    """Return a running profiler."""
    profiler = torch.profiler.profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU])
    profiler.start()
    return profiler


def finish(profiler: Any, cuda: bool) -> dict[str, Any]:
    """Return `shares` of what ran since `start`: kernels on CUDA, operators on CPU."""
    profiler.stop()
    events = profiler.key_averages()
    field = "self_device_time_total" if cuda else "self_cpu_time_total"
    return shares((event.key, float(getattr(event, field))) for event in events)
