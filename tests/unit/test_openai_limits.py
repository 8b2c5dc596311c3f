"""Limits of an endpoint, on a clock that only sleeping moves: none is ever broken, and little of them is wasted."""

import asyncio
import itertools
import random

import pytest

from wrpo_ray.config_endpoint import LimitsConfig
from wrpo_ray.engines.openai_limits import Limiter


class Clock:
    """Time passes when nothing else is left to do, up to the next one who waits."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waiting: list[tuple[float, int, asyncio.Future[None]]] = []

    async def sleep(self, seconds: float) -> None:
        future = asyncio.get_running_loop().create_future()
        self.waiting.append((self.now + seconds, len(self.waiting), future))
        await future

    async def run(self, work: "asyncio.Future[list[None]]") -> None:
        while not work.done():
            for _ in range(50):
                await asyncio.sleep(0)
            if self.waiting and not work.done():
                first = min(self.waiting)
                self.waiting.remove(first)
                self.now = max(self.now, first[0])
                first[2].set_result(None)


def sent(limits: LimitsConfig, num_requests: int, reserved: int, used: int, takes_s: float) -> list[tuple[float, int]]:
    """Return when each request was sent and the tokens that it used, for requests that are all there at once."""
    clock = Clock()
    limiter = Limiter(limits, lambda: clock.now, clock.sleep)
    requests: list[tuple[float, int]] = []

    async def request() -> None:
        async with limiter.slots:
            held = await limiter.admitted(reserved)
            requests.append((clock.now, used))
            await clock.sleep(takes_s * random.Random(len(requests)).uniform(0.5, 1.5))
            limiter.settle(held, used)

    async def main() -> None:
        work = asyncio.gather(*(request() for _ in range(num_requests)))
        await clock.run(work)
        await work

    asyncio.run(main())
    return requests


def most_in_a_minute(requests: list[tuple[float, int]], tokens: bool) -> int:
    return max(
        sum(used if tokens else 1 for at, used in requests if start <= at < start + 60 - 1e-6) for start, _ in requests
    )


def test_requests_are_evenly_spaced_and_as_many_as_allowed() -> None:
    requests = sent(LimitsConfig(requests_per_minute=30), 100, 10, 10, takes_s=1)
    gaps = [later - earlier for (earlier, _), (later, _) in itertools.pairwise(requests)]
    assert gaps == pytest.approx([2.0] * 99)
    assert most_in_a_minute(requests, tokens=False) == 30


@pytest.mark.parametrize("used", [50, 900, 2100])
def test_tokens_of_any_minute_keep_the_limit_and_use_it(used: int) -> None:
    """Each request reserves 2,100 tokens, and uses what it uses: what is left over goes to others."""
    limit, count = 30_000, 400
    requests = sent(LimitsConfig(tokens_per_minute=limit, max_concurrent_requests=64), count, 2100, used, takes_s=5)
    assert len(requests) == count
    assert most_in_a_minute(requests, tokens=True) <= limit
    # The first minute's allowance is there at once; what runs side by side must fit with all that it may use.
    ideal_s = max(60 * (count * used / limit - 1), 5 * count / (limit // 2100))
    assert requests[-1][0] <= 1.15 * ideal_s + 60


def test_both_limits_hold_at_once() -> None:
    limits = LimitsConfig(requests_per_minute=60, tokens_per_minute=10_000)
    requests = sent(limits, 150, 1000, 400, takes_s=3)
    assert most_in_a_minute(requests, tokens=False) <= 60
    assert most_in_a_minute(requests, tokens=True) <= 10_000


def test_no_more_than_so_many_at_once() -> None:
    requests = sent(LimitsConfig(max_concurrent_requests=4), 40, 1, 1, takes_s=10)
    assert most_in_a_minute(requests, tokens=False) <= 4 * 60 / 5
    assert len([at for at, _ in requests if at == 0.0]) == 4


def test_a_request_larger_than_the_limit_waits_for_an_empty_minute() -> None:
    requests = sent(LimitsConfig(tokens_per_minute=1000), 3, 5000, 5000, takes_s=1)
    assert [at for at, _ in requests] == pytest.approx([0.0, 60.0, 120.0])


def test_a_pause_holds_everybody_back() -> None:
    clock = Clock()
    limiter = Limiter(LimitsConfig(), lambda: clock.now, clock.sleep)

    async def main() -> list[float]:
        limiter.pause(30.0)
        limiter.pause(5.0)
        times: list[float] = []

        async def request() -> None:
            await limiter.admitted(1)
            times.append(clock.now)

        work = asyncio.gather(*(request() for _ in range(5)))
        await clock.run(work)
        return times

    assert asyncio.run(main()) == [30.0] * 5
