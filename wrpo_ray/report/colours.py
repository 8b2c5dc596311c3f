"""Which colour stands for what, the same in every chart: numbers of the palette in style.css."""

from __future__ import annotations

from collections.abc import Sequence

# Okabe and Ito's palette without black and yellow, which one of both backgrounds would swallow.
NUM_COLOURS = 6
SOURCE_CHOSEN, TARGET_CHOSEN, REJECTED = 0, 2, 3
# Grey is outside the palette.
PLANNED, ACTUAL = 6, 0


def colour_of(name: str, names: Sequence[str]) -> int:
    """Return the colour of one of `names`; from the seventh on they come again, and the labels tell them apart."""
    return list(names).index(name) % NUM_COLOURS if name in names else NUM_COLOURS - 1
