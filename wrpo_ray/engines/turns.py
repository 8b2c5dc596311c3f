"""Who may use an engine when: many batches together, or one batch alone. No processes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """Batches are together until one has to be alone; it waits for those at work, and later ones wait for it.

    Those that have to be alone are so one after another: the lowest rank first, of equal ones who came first.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._num_came = self._num_together = 0
        self._to_be_alone: list[Turn] = []

    @contextmanager
    def turn(self, rank: int = 0) -> Iterator[Turn]:
        """Be one of many in the body, until it calls `be_alone`."""
        with self._changed:
            self._changed.wait_for(lambda: not self._to_be_alone)
            self._num_came += 1
            self._num_together += 1
            turn = Turn(self, (rank, self._num_came))
        try:
            yield turn
        finally:
            self._leave(turn)

    def _leave(self, turn: Turn) -> None:
        with self._changed:
            if turn in self._to_be_alone:
                self._to_be_alone.remove(turn)
            else:
                self._num_together -= 1
            self._changed.notify_all()

    def _be_alone(self, turn: Turn) -> None:
        with self._changed:
            # In one go with leaving the others, so that nobody who came later can be first.
            self._num_together -= 1
            self._to_be_alone.append(turn)
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._num_together and self._is_first(turn))

    def _is_first(self, turn: Turn) -> bool:
        return min(self._to_be_alone, key=lambda waiting: waiting.place) is turn


class Turn:
    """A batch's turn."""

    def __init__(self, turns: Turns, place: tuple[int, int]) -> None:
        self._turns, self.place = turns, place

    def be_alone(self) -> None:
        """Wait until no other batch is in the engine; none comes before this turn ends. Called once."""
        self._turns._be_alone(self)
