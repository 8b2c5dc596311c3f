"""What accelerators can do, from their data sheets: dense arithmetic, no sparsity.

H100, H200 (SXM): https://www.nvidia.com/en-us/data-center/h200/ and h100; A100: NVIDIA's A100 data sheet (SXM);
B200: DGX B200 data sheet, one of 8; L40S, L4: their NVIDIA data sheets; A10G: NVIDIA's A10G data sheet for AWS G5;
MI300X: AMD's data sheet. Names are those of Ray (ray.util.accelerators). CPU is one core, to an order of magnitude.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from wrpo_ray.config_planning import AcceleratorConfig
from wrpo_ray.errors import Problem

CPU = "CPU"


@dataclass(frozen=True)
class Accelerator:
    """FLOP per second by format, bytes per second, bytes; memory None: not that of an accelerator, not looked at."""

    name: str
    memory: float | None
    bandwidth: float
    bf16: float
    fp8: float | None
    fp32: float

    def flops(self, kind: str) -> float:
        """Return FLOP per second in bf16, fp8 (bf16 where there is no fp8) or fp32."""
        return {"bf16": self.bf16, "fp8": self.fp8 or self.bf16, "fp32": self.fp32}[kind]


ACCELERATORS = {
    accelerator.name: accelerator
    for accelerator in (
        Accelerator("B200", 180e9, 8.0e12, 2250e12, 4500e12, 75e12),
        Accelerator("H200", 141e9, 4.8e12, 989e12, 1979e12, 67e12),
        Accelerator("H100", 80e9, 3.35e12, 989e12, 1979e12, 67e12),
        Accelerator("A100-80G", 80e9, 2.039e12, 312e12, None, 19.5e12),
        Accelerator("A100-40G", 40e9, 1.555e12, 312e12, None, 19.5e12),
        Accelerator("AMD-Instinct-MI300X-OAM", 192e9, 5.3e12, 1307e12, 2614e12, 163.4e12),
        Accelerator("L40S", 48e9, 0.864e12, 362e12, 733e12, 91.6e12),
        Accelerator("L4", 24e9, 0.3e12, 121e12, 242e12, 30.3e12),
        Accelerator("A10G", 24e9, 0.6e12, 70e12, None, 31.5e12),
        Accelerator(CPU, None, 8e9, 40e9, None, 40e9),
    )
}


def find_accelerator(name: str, own: Mapping[str, AcceleratorConfig], place: str) -> Accelerator | Problem:
    """Return the accelerator of that name, from the config or from the table; `place` is the field that names it."""
    if name in own:
        facts = own[name]
        return Accelerator(
            name,
            facts.memory_gb * 1e9,
            facts.bandwidth_gb_per_s * 1e9,
            facts.bf16_tflops * 1e12,
            facts.fp8_tflops * 1e12 if facts.fp8_tflops else None,
            (facts.fp32_tflops or facts.bf16_tflops / 2) * 1e12,
        )
    if name in ACCELERATORS:
        return ACCELERATORS[name]
    close = difflib.get_close_matches(name, ACCELERATORS, n=1, cutoff=0.3)
    hint = f"did you mean `{close[0]}`? " if close else ""
    fix = f"{hint}known: {', '.join(ACCELERATORS)}; give the figures of another one in planning.accelerators"
    return Problem(place, name, "no figures of this accelerator are known", fix, "WRPO-C061")
