"""What one training step costs: CPU seconds, wall seconds, peak memory, FLOPs."""

from __future__ import annotations

import ctypes
import math
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

_MIB = 2**20
aten = torch.ops.aten
_GEMMS = ("mm", "addmm", "addmm_")
_STATUS, _CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def _addmm_flop(_total: Any, left: Any, right: Any, *_: Any, **__: Any) -> int:
    return 2 * left[0] * left[1] * right[1]


def _attention_flop(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """q @ k and scores @ v, without regard to masks, as torch counts them for the kernels that it knows."""
    return 2 * math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _attention_backward_flop(_gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    # Five products for two: scores again, and the gradients of q, k, scores and v.
    return 5 * _attention_flop(query, key, value) // 2


# What torch 2.13 does not count: attention on CPU, and products added in place.
_FORMULAS: dict[Any, Any] = {
    aten._scaled_dot_product_flash_attention_for_cpu: _attention_flop,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flop,
    aten.addmm_: _addmm_flop,
}


def resident_mib(name: str = "VmRSS") -> float:
    """Return the process's resident memory, or its peak since `forget_peak` (VmHWM)."""
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(name + ":"))
    return int(line.split()[1]) / 1024


def forget_peak() -> None:
    """Let VmHWM begin anew. See proc(5), /proc/pid/clear_refs."""
    _CLEAR_REFS.write_text("5")


def trim() -> None:
    """Give memory that was freed back to the system, so that it does not count as the model's."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)


class Meter:
    """Measures what happens between `start` and `finish`. On CUDA memory is the allocator's, on CPU the process's.

    bare: memory of the process with the bare policy model, MiB; set by `mark_bare` before anything else exists.
    """

    def __init__(self, device: str) -> None:
        self.cuda = device == "cuda"
        self.bare_mib = 0.0
        self.highest_mib = 0.0
        self._before_mib = 0.0
        self._started = (0.0, 0.0)
        self._lap_s: float | None = None
        self._flops: FlopCounterMode | None = None
        self._stack = ExitStack()

    def mark_bare(self) -> None:
        """Take memory as it is now for that of the bare model."""
        self.bare_mib = self._memory()
        self._forget_peak()

    def start(self, count_flops: bool) -> None:
        """Begin a step."""
        self._before_mib = self._memory()
        self.highest_mib = max(self.highest_mib, self._peak())
        self._forget_peak()
        if count_flops:
            self._flops = self._stack.enter_context(FlopCounterMode(display=False, custom_mapping=_FORMULAS))
        self._synchronize()
        self._lap_s = None
        self._started = (time.perf_counter(), time.process_time())

    def lap(self) -> None:
        """Mark the end of forward and backward."""
        self._synchronize()
        self._lap_s = time.perf_counter() - self._started[0]

    def finish(self) -> dict[str, float]:
        """Return what the step cost; FLOPs only where they were to be counted."""
        self._synchronize()
        wall, cpu = self._started
        costs = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
        if self._lap_s is not None:
            costs["backward_wall_s"] = self._lap_s
        if self._flops is not None:
            self._stack.close()
            counts = {str(name).removeprefix("aten."): value for name, value in self._global_counts().items()}
            costs["gemm_flops"] = sum(counts.get(name, 0) for name in _GEMMS)
            costs["other_flops"] = sum(value for name, value in counts.items() if name not in _GEMMS)
            self._flops = None
        peak = self._peak()
        self.highest_mib = max(self.highest_mib, peak)
        if not self.cuda:
            # Many workers wait beside this one.
            trim()
        return {**costs, "step_mib": peak - self._before_mib, "training_mib": self.highest_mib - self.bare_mib}

    def _global_counts(self) -> dict[Any, int]:
        assert self._flops is not None
        return self._flops.get_flop_counts().get("Global", {})

    def _memory(self) -> float:
        if self.cuda:
            return torch.cuda.memory_allocated() / _MIB
        trim()
        return resident_mib()

    def _peak(self) -> float:
        return torch.cuda.max_memory_allocated() / _MIB if self.cuda else resident_mib("VmHWM")

    def _forget_peak(self) -> None:
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        else:
            forget_peak()

    def _synchronize(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()
