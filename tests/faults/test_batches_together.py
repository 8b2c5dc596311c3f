"""Several batches in one supervised engine at once: what one of them does to it, the others survive."""

import functools
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.faults.fake_engine import (
    START,
    FakeGenerator,
    FakeStreamingGenerator,
    FaultFolder,
    is_alive,
    wait_until,
)
from wrpo_ray.config import FaultsConfig, ModelConfig, SamplingConfig
from wrpo_ray.engines.protocol import SetAside
from wrpo_ray.engines.supervisor import SupervisedEngine
from wrpo_ray.errors import ModelError
from wrpo_ray.schema import Prompt

MODEL = ModelConfig(name="fake", path="./none", sampling=SamplingConfig(num_samples=2))
BATCHES = [
    [Prompt(f"p{batch}{row}", [{"role": "user", "content": "?"}], "sft", None) for row in range(4)]
    for batch in range(4)
]


class Together:
    """An engine, and four threads that give it a batch each; all are in it before it begins."""

    def __init__(self, folder: Path, kind: type[FakeGenerator], stall_timeout_s: float) -> None:
        self.faults = FaultFolder(folder)
        folder.mkdir()
        self.kind = kind
        bounds = FaultsConfig(engine_start_attempts=2, engine_start_timeout_s=20.0, stall_timeout_s=stall_timeout_s)
        make = functools.partial(kind, str(folder), MODEL, 7, "identity")
        self.engine = SupervisedEngine(make, "generate", "sample fake", bounds)
        self.counts = [Counter[str]() for _ in BATCHES]
        self.pool = ThreadPoolExecutor(len(BATCHES))

    def run(self) -> list[Future[list[object]]]:
        (self.faults.path / "hold").touch()
        futures = []
        for number, (batch, counts) in enumerate(zip(BATCHES, self.counts, strict=True)):
            futures.append(self.pool.submit(self.engine.run, batch, counts))
            # One after another, so that what happens to them is the same each time.
            wait_until(lambda number=number: self._num_given() > number or futures[0].done(), "the batch to be given")
        (self.faults.path / "hold").unlink()
        return futures

    def _num_given(self) -> int:
        exchange = self.engine._running
        return 0 if exchange is None else exchange._num_given

    def expected(self) -> list[list[object]]:
        clean = FakeGenerator(str(self.faults.path / "clean"), MODEL, 7, "identity")
        return [list(clean.generate(batch, lambda: None)) for batch in BATCHES]


@pytest.fixture(params=[FakeGenerator, FakeStreamingGenerator])
def together(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Together]:
    made = Together(tmp_path / "fake", request.param, stall_timeout_s=1.0)
    yield made
    made.engine.close()
    made.pool.shutdown()
    assert not any(is_alive(event["pid"]) for event in made.faults.events("start"))


def test_all_are_answered_by_one_engine(together: Together) -> None:
    assert [future.result(30) for future in together.run()] == together.expected()
    assert sum(together.counts, Counter())["engine_starts"] == together.engine.num_starts == 1
    if together.kind is FakeStreamingGenerator:
        assert [event["num_there"] for event in together.faults.events("added")] == [0, 1, 2, 3]
        assert [counts["num_done"] for counts in together.counts] == [1, 1, 1, 1]


@pytest.mark.parametrize(("kind", "code"), [("crash", "engine_crash"), ("hang", "engine_timeout")])
def test_only_the_row_that_ends_the_engine_is_set_aside(together: Together, kind: str, code: str) -> None:
    if (kind, together.kind) == ("hang", FakeGenerator):
        pytest.skip("as with a crash; the other kind shows how a hang is found")
    together.faults.plan("p12", kind)
    outcomes = [future.result(60) for future in together.run()]
    found = outcomes[1][2]
    assert isinstance(found, SetAside)
    # All together, the batch alone, its half, the row alone twice.
    assert (found.code, found.attempts) == (code, 5)
    expected = together.expected()
    expected[1][2] = found
    assert outcomes == expected
    assert sum(together.counts, Counter())["engine_starts"] == together.engine.num_starts == 6


def test_a_death_that_no_row_is_to_blame_for_costs_nobody_a_row(together: Together) -> None:
    together.faults.plan("p12", "crash", times=1)
    assert [future.result(30) for future in together.run()] == together.expected()
    assert together.engine.num_starts == 2


def test_an_error_of_ours_reaches_who_asked(together: Together) -> None:
    together.faults.plan("p12", "refuse")
    futures = together.run()
    with pytest.raises(ModelError, match="cannot load p12"):
        futures[1].result(30)
    together.engine.close()


def test_an_engine_that_cannot_start_is_not_started_for_each_batch(together: Together) -> None:
    together.faults.plan(START, "raise")
    for future in together.run():
        with pytest.raises(ModelError, match="failed to start 2 times in a row"):
            future.result(30)
    assert len(together.faults.events("start")) == 2


def test_a_batch_that_is_not_taken_leaves_the_others_alone(tmp_path: Path) -> None:
    together = Together(tmp_path / "fake", FakeStreamingGenerator, stall_timeout_s=20.0)
    odd = [Prompt("odd", [{"role": "user", "content": "unpreparable"}], "sft", None), *BATCHES[0][:1]]
    futures = [*together.run(), together.pool.submit(together.engine.run, odd)]
    assert [future.result(30) for future in futures[:4]] == together.expected()
    found, fine = futures[4].result(30)
    assert isinstance(found, SetAside)
    assert found.error == "ValueError: no template for it"
    assert fine == together.expected()[0][0]
    assert together.engine.num_starts == 1
    together.engine.close()
