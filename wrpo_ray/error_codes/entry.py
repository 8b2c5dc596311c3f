"""What one error code means."""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """What an error code stands for: a title, what it means, and what to do."""

    title: str
    meaning: str
    action: str
