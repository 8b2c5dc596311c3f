"""How fast something goes lately: amounts that arrive in bursts, counted over the last while."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

WINDOW_S = 60.0
# Shards that take longer than the window: these many of them tell the pace.
MIN_ARRIVALS = 16
_BUCKET_S = 1.0
# So many times the longest shard without an arrival is a stall, and the pace falls from then on.
_STALL = 1.5


@dataclass
class _Bucket:
    begun_at: float
    last_at: float
    rows: int
    tokens: int
    arrivals: int
    seconds: float


class Pace:
    """Rows and tokens per second over the last minute, or the last 16 arrivals where those are further apart.

    Arrivals within a second are kept as one, so that both memory and time stay small however many there are.
    """

    def __init__(self, begun_at: float) -> None:
        self._base_at = begun_at
        self._buckets: deque[_Bucket] = deque()
        self._arrivals = 0
        self.arrivals = 0
        """In all."""

    def add(self, now: float, rows: int, tokens: int = 0, seconds: float = 0.0) -> None:
        """Count an arrival that took `seconds` to make."""
        if not self.arrivals and seconds:
            # Until then engines were starting.
            self._base_at = max(self._base_at, now - seconds)
        self.arrivals += 1
        last = self._buckets[-1] if self._buckets else None
        if last is not None and now - last.begun_at < _BUCKET_S:
            last.last_at, last.seconds = max(now, last.last_at), max(seconds, last.seconds)
            last.rows, last.tokens, last.arrivals = last.rows + rows, last.tokens + tokens, last.arrivals + 1
        else:
            self._buckets.append(_Bucket(now, now, rows, tokens, 1, seconds))
        self._arrivals += 1
        while self._has_too_old(now):
            gone = self._buckets.popleft()
            self._base_at, self._arrivals = gone.last_at, self._arrivals - gone.arrivals

    def _has_too_old(self, now: float) -> bool:
        oldest = self._buckets[0]
        return oldest.last_at < now - WINDOW_S and self._arrivals - oldest.arrivals >= MIN_ARRIVALS

    def rates(self, now: float) -> tuple[float, float] | None:
        """Return rows and tokens per second; None before the first arrival."""
        if not self._buckets:
            return None
        last_at = self._buckets[-1].last_at
        longest_s = max(bucket.seconds for bucket in self._buckets)
        # Between two arrivals nothing is known; only when the next one is late does the pace fall.
        until = now if now - last_at > max(_STALL * longest_s, WINDOW_S) else last_at
        seconds = until - self._base_at
        if seconds <= 0.0:
            return None
        rows, tokens = (sum(getattr(each, name) for each in self._buckets) for name in ("rows", "tokens"))
        return rows / seconds, tokens / seconds
