"""Events reach those who listen in the context, with the step's name, across threads that copy it."""

import contextvars
import threading

from wrpo_ray.events import Event, ShardDone, StepBegan, emit, listening, within


def test_a_thread_with_a_copy_of_the_context_is_heard_and_another_one_is_not() -> None:
    heard: list[tuple[str, Event]] = []

    def work(name: str) -> None:
        with within(name):
            emit(StepBegan())

    with listening(lambda step, event: heard.append((step, event))):
        for copied in (True, False):
            context = contextvars.copy_context() if copied else contextvars.Context()
            thread = threading.Thread(target=context.run, args=(work, f"copied {copied}"))
            thread.start()
            thread.join()
        emit(ShardDone(1, 2, 3.0))
        with within("here"):
            emit(ShardDone(1, 2, 3.0))
    with within("later"):
        emit(StepBegan())
    assert heard == [("copied True", StepBegan()), ("here", ShardDone(1, 2, 3.0))]
