"""Batches together, or one alone: in order, and never both."""

import threading

from tests.faults.fake_engine import wait_until
from wrpo_ray.engines.turns import Turns


def test_those_that_fail_go_alone_by_rank_and_later_ones_wait() -> None:
    turns, events, lock = Turns(), [], threading.Lock()
    failing, may_end = threading.Event(), threading.Event()
    num_alone = 0

    def fails(name: str, rank: int) -> None:
        nonlocal num_alone
        with turns.turn(rank) as turn:
            events.append(f"{name} together")
            failing.wait(10)
            turn.be_alone()
            with lock:
                num_alone += 1
            assert num_alone == 1
            events.append(f"{name} alone")
            with lock:
                num_alone -= 1

    def works() -> None:
        with turns.turn():
            events.append("c together")
            may_end.wait(10)
            events.append("c ends")

    def late() -> None:
        with turns.turn():
            events.append("d together")

    started = []
    for work, arguments in ((fails, ("a", 2)), (fails, ("b", 1)), (works, ())):
        started.append(threading.Thread(target=work, args=arguments))
        started[-1].start()
        wait_until(lambda: len(events) == len(started), "the turn to begin")
    failing.set()
    wait_until(lambda: len(turns._to_be_alone) == 2, "both to fail")
    started.append(threading.Thread(target=late))
    started[-1].start()
    may_end.set()
    for thread in started:
        thread.join(10)
    assert events[3:] == ["c ends", "b alone", "a alone", "d together"]
