"""What is put into every report: the libraries as they were published, and colours that can be seen and told apart."""

import hashlib
import itertools
import re
from importlib import resources
from pathlib import Path

import pytest

FOLDER = resources.files("wrpo_ray.report")
STYLE = (FOLDER / "templates/style.css").read_text(encoding="utf-8")
LIGHT, DARK = re.findall(r":root \{(.*?)\}", STYLE, flags=re.DOTALL)


def test_libraries_are_those_that_were_published() -> None:
    table = (FOLDER / "vendor/README.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"`([a-z.0-9]+\.js)` .*`([0-9a-f]{64})`", table))
    found = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in Path(str(FOLDER / "vendor")).glob("*.js")
    }
    assert found == told
    assert len(found) == 2


def colours(block: str) -> dict[str, tuple[float, float, float]]:
    """Return the colours of a block of CSS as shares of red, green and blue."""
    found = re.findall(r"--([a-z0-9]+): #([0-9a-f]{6})", block)
    return {name: tuple(int(text[at : at + 2], 16) / 255 for at in (0, 2, 4)) for name, text in found}  # type: ignore[misc]


def linear(channel: float) -> float:
    return channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4


def luminance(colour: tuple[float, float, float]) -> float:
    red, green, blue = map(linear, colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: tuple[float, float, float], other: tuple[float, float, float]) -> float:
    """Contrast ratio of https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio: 1 to 21."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("block", [LIGHT, DARK], ids=["light", "dark"])
def test_contrast(block: str) -> None:
    named = colours(block)
    assert contrast((0, 0, 0), (1, 1, 1)) == 21
    # WCAG AA: 4.5 for text, 3 for what is drawn.
    for name, ground in itertools.product(("text", "soft", "link", "good", "bad", "busy"), ("page", "surface")):
        assert contrast(named[name], named[ground]) >= 4.5, (name, ground)
    for number in range(7):
        assert contrast(named[f"c{number}"], named["surface"]) >= 3, number


def seen_by(colour: tuple[float, float, float], matrix: list[list[float]]) -> tuple[float, ...]:
    red, green, blue = map(linear, colour)
    return tuple(max(0.0, row[0] * red + row[1] * green + row[2] * blue) for row in matrix)


# Full severity, for linear RGB: Machado, Oliveira and Fernandes 2009, table 1.
MACHADO = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
}


@pytest.mark.parametrize("block", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("kind", MACHADO)
def test_the_three_responses_are_told_apart_by_the_colour_blind(block: str, kind: str) -> None:
    named = colours(block)
    # y_ws, y_wt and y_l (colours.py): they stand in one picture again and again.
    for one, other in itertools.combinations(("c0", "c2", "c3"), 2):
        seen = [seen_by(named[name], MACHADO[kind]) for name in (one, other)]
        assert sum((a - b) ** 2 for a, b in zip(*seen, strict=True)) ** 0.5 > 0.15, (one, other)
