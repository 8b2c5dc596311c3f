"""How often an endpoint is asked: requests evenly spaced, tokens within a minute's allowance, a bounded number at once.

One `Limiter` belongs to one process, and a source has one such process: no limit has to be divided or shared.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from wrpo_ray.config_endpoint import LimitsConfig

_MINUTE_S = 60.0
# Running requests may free tokens before the time that was worked out.
_LOOK_AGAIN_S = 1.0


class Pace:
    """A token bucket of depth one: things at least 60 / per_minute seconds apart, whatever came before.

    Nothing is saved up, so that a restart, which forgets the past, can be early by one request at most.
    """

    def __init__(self, per_minute: float) -> None:
        self.interval_s, self.free_at = _MINUTE_S / per_minute, 0.0

    def wait_s(self, now: float) -> float:
        """Return how long to wait for the next one."""
        return max(0.0, self.free_at - now)

    def take(self, now: float) -> None:
        """Count one at `now`."""
        self.free_at = max(now, self.free_at) + self.interval_s


@dataclass(slots=True)
class Reserved:
    """Tokens of one request: what it may use while it runs, and what it has used afterwards."""

    at: float
    tokens: int


class MinuteWindow:
    """Tokens of all requests that began in the last 60 seconds: never more than `limit`.

    A bucket would either lose what requests reserve and do not use, or let two minutes' tokens through at once.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.used = limit, 0
        self.requests: deque[Reserved] = deque()

    def wait_s(self, now: float, tokens: int) -> float:
        """Return how long to wait until `tokens` more fit; a request over the whole limit waits for an empty window."""
        while self.requests and self.requests[0].at + _MINUTE_S <= now:
            self.used -= self.requests.popleft().tokens
        excess = min(tokens, self.limit) + self.used - self.limit
        wait_s = 0.0
        for request in self.requests:
            if excess <= 0:
                break
            excess -= request.tokens
            wait_s = request.at + _MINUTE_S - now
        return wait_s

    def take(self, now: float, tokens: int) -> Reserved:
        """Count `tokens` at `now`."""
        reserved = Reserved(now, tokens)
        self.requests.append(reserved)
        self.used += tokens
        return reserved

    def settle(self, reserved: Reserved, tokens: int, now: float) -> None:
        """Count `tokens` in place of what was reserved."""
        if reserved.at + _MINUTE_S > now:
            self.used += tokens - reserved.tokens
            reserved.tokens = tokens


class Limiter:
    """Lets requests through, first come, first served.

    slots: one for each request that may run; it is kept while a request waits for its next try.
    """

    def __init__(
        self,
        limits: LimitsConfig,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.slots = asyncio.Semaphore(limits.max_concurrent_requests)
        self.clock, self.sleep = clock, sleep
        self._turn = asyncio.Lock()
        self._pace = Pace(limits.requests_per_minute) if limits.requests_per_minute else None
        self._window = MinuteWindow(limits.tokens_per_minute) if limits.tokens_per_minute else None
        self._paused_until = 0.0

    async def admitted(self, tokens: int) -> Reserved:
        """Wait until a request of at most `tokens` may be sent, and count it."""
        async with self._turn:
            while (wait_s := self._wait_s(tokens)) > 0:
                await self.sleep(min(wait_s, _LOOK_AGAIN_S))
            now = self.clock()
            if self._pace:
                self._pace.take(now)
            return self._window.take(now, tokens) if self._window else Reserved(now, tokens)

    def settle(self, reserved: Reserved, tokens: int) -> None:
        """Count what a request has used in place of what it might have used."""
        if self._window:
            self._window.settle(reserved, tokens, self.clock())

    def pause(self, seconds: float) -> None:
        """Send nothing for so long: the endpoint said that it was too much, whichever request it said it to."""
        self._paused_until = max(self._paused_until, self.clock() + seconds)

    def _wait_s(self, tokens: int) -> float:
        now = self.clock()
        waits = [self._paused_until - now]
        if self._pace:
            waits.append(self._pace.wait_s(now))
        if self._window:
            waits.append(self._window.wait_s(now, tokens))
        return max(waits)
