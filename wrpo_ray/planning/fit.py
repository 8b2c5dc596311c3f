"""Whether something fits into the memory of its accelerators, what takes it, and what would make it fit."""

from __future__ import annotations

from dataclasses import dataclass

GB = 1e9
# CUDA's context, its libraries and graphs, on every GPU; an assumption.
CONTEXT_BYTES = 1.0 * GB
# Of a GPU without vLLM, which has a setting of its own; the rest is lost to fragments.
USABLE_SHARE = 0.92


@dataclass(frozen=True)
class Fit:
    """Bytes of one accelerator that a section of the config needs, by what takes them.

    available: None where it is not looked at (CPU). reason, fix: empty when it fits.
    """

    place: str
    accelerator: str
    parts: tuple[tuple[str, float], ...]
    available: float | None
    reason: str = ""
    fix: str = ""

    @property
    def needed(self) -> float:
        return sum(size for _, size in self.parts)

    @property
    def fits(self) -> bool:
        return not self.reason


def shortage(parts: tuple[tuple[str, float], ...], available: float, accelerator: str) -> str:
    """Return why parts do not fit, or an empty text when they do."""
    needed = sum(size for _, size in parts)
    if needed <= available:
        return ""
    taken = ", ".join(f"{name} {size / GB:.1f}" for name, size in parts if size >= 0.05 * GB)
    return f"needs {needed / GB:.1f} GB on each {accelerator}, {available / GB:.1f} can be used: {taken}"
