"""One supervised engine without Ray: deaths, hangs, exceptions, starts that fail, and nothing left behind."""

import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.fake_engine import START, FakeGenerator, FaultFolder, is_alive, wait_until
from wrpo_ray.config import FaultsConfig, ModelConfig, SamplingConfig
from wrpo_ray.engines.process import shortened
from wrpo_ray.engines.protocol import SetAside
from wrpo_ray.engines.supervisor import SupervisedEngine
from wrpo_ray.errors import ModelError
from wrpo_ray.schema import Prompt

MODEL = ModelConfig(name="fake", path="./none", sampling=SamplingConfig(num_samples=2))
PROMPTS = [Prompt(f"p{number}", [{"role": "user", "content": f"{number}"}], "sft", None) for number in range(8)]


@pytest.fixture
def faults(tmp_path: Path) -> FaultFolder:
    return FaultFolder(tmp_path / "fake")


@pytest.fixture
def engine(faults: FaultFolder) -> Iterator[SupervisedEngine]:
    made = supervised(faults)
    yield made
    made.close()
    for event in [*faults.events("start"), *faults.events("helper")]:
        assert not is_alive(event["pid"])


def supervised(faults: FaultFolder, stall_timeout_s: float = 20.0) -> SupervisedEngine:
    make = functools.partial(FakeGenerator, str(faults.path), MODEL, 7, "identity")
    bounds = FaultsConfig(engine_start_attempts=3, engine_start_timeout_s=20.0, stall_timeout_s=stall_timeout_s)
    return SupervisedEngine(make, "generate", "sample fake", bounds)


def expected(faults: FaultFolder) -> list[object]:
    clean = FakeGenerator(str(faults.path / "clean"), MODEL, 7, "identity")
    return list(clean.generate(PROMPTS, lambda: None))


def test_a_poison_row_is_found_and_the_others_are_as_they_would_be(
    faults: FaultFolder, engine: SupervisedEngine
) -> None:
    faults.plan("p5", "crash")
    outcomes = engine.run(PROMPTS)
    assert outcomes[:5] + outcomes[6:] == expected(faults)[:5] + expected(faults)[6:]
    found = outcomes[5]
    assert isinstance(found, SetAside)
    assert found.code == "engine_crash"
    assert found.error == "exit code 1; RuntimeError: CUDA error at p5"
    # 8 rows twice, 4, 2, then the row twice: six deaths, and a seventh engine for what came after them.
    assert found.attempts == 6
    assert engine.num_starts == len(faults.events("start")) == 7 <= 2 + 3 * 2


def test_a_hang_ends_after_the_stall_time(faults: FaultFolder) -> None:
    faults.plan("p0", "hang")
    engine = supervised(faults, stall_timeout_s=0.6)
    started = time.monotonic()
    outcomes = engine.run(PROMPTS[:2])
    assert time.monotonic() - started < 15
    assert outcomes[0] == SetAside("engine_timeout", "no engine step ended for 0.6 s", 3)
    assert outcomes[1] == expected(faults)[1]
    engine.close()
    assert not any(is_alive(event["pid"]) for event in faults.events("start"))


def test_a_slow_engine_that_reports_is_left_alone(faults: FaultFolder) -> None:
    for prompt in PROMPTS:
        faults.plan(prompt.prompt_id, "slow", seconds=0.3)
    engine = supervised(faults, stall_timeout_s=1.2)
    assert engine.run(PROMPTS) == expected(faults)
    assert engine.num_starts == 1
    engine.close()


def test_an_exception_keeps_an_engine_that_can_go_on(faults: FaultFolder, engine: SupervisedEngine) -> None:
    faults.plan("p1", "raise")
    outcomes = engine.run(PROMPTS[:3])
    assert outcomes[1] == SetAside("engine_crash", "RuntimeError: no luck with p1", 5)
    assert [outcomes[0], outcomes[2]] == [expected(faults)[0], expected(faults)[2]]
    assert engine.num_starts == 1


def test_the_engines_own_process_may_die_while_the_child_lives(faults: FaultFolder, engine: SupervisedEngine) -> None:
    faults.path.mkdir(parents=True)
    (faults.path / "with_helper").touch()
    engine.run(PROMPTS[:1])
    helper = faults.events("helper")[0]["pid"]
    os.kill(helper, signal.SIGKILL)
    wait_until(lambda: not is_alive(helper), "the end of the helper")
    assert engine.run(PROMPTS) == expected(faults)
    assert engine.num_starts == 2


def test_a_start_that_never_works_says_why_and_soon(faults: FaultFolder, engine: SupervisedEngine) -> None:
    faults.plan(START, "raise")
    started = time.monotonic()
    with pytest.raises(ModelError) as raised:
        engine.run(PROMPTS)
    assert time.monotonic() - started < 30
    assert raised.value.code == "WRPO-E001"
    assert "failed to start 3 times in a row" in raised.value.message
    assert "exit code 1; RuntimeError: no luck with start" in raised.value.message
    assert len(faults.events("start")) == 3


def test_a_start_that_works_in_the_end(faults: FaultFolder, engine: SupervisedEngine) -> None:
    faults.plan(START, "crash", times=2)
    assert engine.run(PROMPTS) == expected(faults)
    assert engine.num_starts == 3


def test_an_error_of_ours_is_not_tried_again(faults: FaultFolder, engine: SupervisedEngine) -> None:
    faults.plan(START, "refuse")
    with pytest.raises(ModelError, match="cannot load start") as raised:
        engine.run(PROMPTS)
    assert raised.value.code == "WRPO-M001"
    assert len(faults.events("start")) == 1


def test_secrets_and_long_lines_stay_out_of_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_TOKEN", "opensesame-1234")
    text = shortened("RuntimeError:\n  401 for opensesame-1234 " + "x" * 1000)
    assert "opensesame" not in text
    assert text.startswith("RuntimeError: 401 for [redacted] xxx")
    assert len(text) < 420


def test_a_killed_supervisor_leaves_nothing_behind(faults: FaultFolder) -> None:
    """Not even what the engine itself started."""
    faults.path.mkdir(parents=True)
    (faults.path / "with_helper").touch()
    faults.plan("p0", "hang")
    program = (
        "from pathlib import Path; from tests.faults import test_supervised_engine as t;"
        f"t.supervised(t.FaultFolder(Path({str(faults.path)!r}))).run(t.PROMPTS)"
    )
    supervisor = subprocess.Popen([sys.executable, "-c", program])
    wait_until(lambda: bool(faults.events("batch")), "a batch")
    supervisor.kill()
    supervisor.wait()
    pids = [event["pid"] for event in [*faults.events("start"), *faults.events("helper")]]
    assert len(pids) == 2
    wait_until(lambda: not any(map(is_alive, pids)), "the end of the engine's processes", timeout_s=10)
