"""The same run as lines of a log, as a picture of any size, as values for Prometheus, and as its closing words."""

import dataclasses
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from fcntl import ioctl
from pathlib import Path

import pytest

from wrpo_ray.config import PricesConfig
from wrpo_ray.events import (
    ReplicasChanged,
    ShardDone,
    StepBegan,
    StepEnded,
    StepFound,
    StepsChosen,
    TrainingAt,
    WorkBegan,
)
from wrpo_ray.live.closing import closing_text
from wrpo_ray.live.frame import frame
from wrpo_ray.live.holding import Holding
from wrpo_ray.live.line import event_line, progress_line
from wrpo_ray.live.metrics import METRICS, Sample, samples
from wrpo_ray.live.state import LiveRun
from wrpo_ray.live.view import RunView
from wrpo_ray.storage.manifest import Manifest

REPOSITORY = Path(__file__).parents[2]


class Clock:
    """Seconds that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def holding(step: str) -> Holding | None:
    stage, _, name = step.partition("-")
    if step == "sft":
        return Holding("training", "H100", 1.0, num_workers=8)
    if stage == "sample":
        return Holding("sampling", "H100", 2.0, source=name)
    return Holding("scoring", "H100", 0.5, source=name) if stage == "score" else None


def run_at_work(num_sources: int = 2, heard=lambda event, step: None) -> tuple[LiveRun, Clock]:
    """A run of which every second source draws, the first one has drawn, and training has begun."""
    clock = Clock()
    live = LiveRun("demo", PricesConfig(per_hour={"H100": 2.5}), holding, clock, heard=heard)
    sources = [f"model-{number}" for number in range(num_sources)]
    scored = [f"{stage}-{name}" for name in sources for stage in ("sample", "score")]
    live("", StepsChosen(("prompts", *scored, "sft", "fuse"), (), {"reason": "no plan for a test"}))
    live("prompts", StepFound(3.0))
    drawing = [f"sample-{name}" for name in sources[::2]]
    for name in drawing:
        live(name, StepBegan())
        live(name, WorkBegan(60_000, 1_000, 231))
        live(name, ReplicasChanged(2, 4.0))
    for _ in range(20):
        clock.now += 10.0
        for name in drawing:
            live(name, ShardDone(256, 576_000, 10.0, {"engine_crash": 1} if name == drawing[0] else {}))
    live("sft", StepBegan())
    live("sft", TrainingAt(0, 600, 0, {}))
    for number in range(1, 11):
        clock.now += 2.0
        live("sft", TrainingAt(number, 600, 40_000, {"loss": 0.69, "alpha": 0.005, "rewards/margins": 0.25}))
    return live, clock


def text(view: RunView, width: int, height: int) -> list[str]:
    return [line.text for line in frame(view, width, height, "#.")]


def test_a_log_line_tells_all_and_holds_no_control_characters():
    line = progress_line(run_at_work()[0].view())
    assert line == (
        "progress: 1/7 steps | sample-model-0 6,120/60,000 rows, 25.6 rows/s, 57,600 tokens/s, 2 replicas, 20 set aside"
        " | sft 10/600 steps, 0.5 steps/s, 20,000 tokens/s, 8 workers, loss 0.69, alpha 0.005, margin 0.25"
        " | 0.289 GPU-h | 0.72 USD | time left unknown (no plan for a test)"
    )
    assert line.isprintable()
    assert progress_line(run_at_work(50)[0].view()).count(" rows, ") == 6
    assert "| 20 more running |" in progress_line(run_at_work(50)[0].view())


def test_each_step_has_one_line_when_it_begins_and_one_when_it_ends():
    told = []
    live, clock = run_at_work(heard=lambda event, step: told.append(event_line(event, step)))
    clock.now += 500.0
    live("sample-model-0", ReplicasChanged(0, 0.0))
    live("sample-model-0", StepEnded(720.0))
    live("fuse", StepBegan())
    live("fuse", StepEnded(0.5))
    assert [line for line in told if line] == [
        "progress: sample-model-0 began",
        "progress: sft began",
        "progress: sample-model-0 done in 12 min, 5,120 rows, 11,520,000 tokens, 0.8 H100-h, 20 set aside",
        "progress: fuse began",
        "progress: fuse done in 0.5 s",
    ]


def test_the_picture_of_a_small_run_shows_every_step_in_order():
    assert text(run_at_work()[0].view(), 140, 24) == [
        "run demo   1/7 steps   4 min   12 GPUs held   0.289 GPU-h   0.72 USD",
        "time left unknown (no plan for a test)",
        "sampled sources 0/2 (5%)   scored sources 0/2 (0%)   trained 0/1 (2%)",
        "step                                       done  per s  tokens/s  replicas    held   time    left",
        "prompts         complete before                                                     3.0 s",
        "sample-model-0  #...........  10%  6,120/60,000   25.6    57,600         2  4 H100  4 min  35 min"
        "  20 set aside",
        "score-model-0   waiting",
        "sample-model-1  waiting",
        "score-model-1   waiting",
        "sft             ............   2%        10/600    0.5    20,000         8  8 H100   20 s  20 min"
        "  loss 0.69, alpha 0.005, margin 0.25",
        "fuse            waiting",
    ]


def test_fifty_sources_on_a_small_terminal_are_summed_up():
    assert text(run_at_work(50)[0].view(), 80, 14) == [
        "run demo   1/103 steps   4 min   108 GPUs held   6.16 GPU-h   15.39 USD",
        "time left unknown (no plan for a test)",
        "sampled sources 0/50 (5%)   scored sources 0/50 (0%)   trained 0/1 (2%)",
        "step                                        done  per s  tokens/s   time    left",
        "sample-model-0   #...........  10%  6,120/60,000   25.6    57,600  4 min  35 min",
        *(
            f"sample-model-{number:<3} #...........  10%  6,120/60,000   25.6    57,600  4 min  35 min"
            for number in (2, 4, 6, 8, 10, 12)
        ),
        "19 more running, 461 per s, 1,056,800 tokens/s: sample-model-14, sample-model...",
        "76 waiting: score-model-0, sample-model-1, score-model-1, score-model-2, samp...",
        "1 complete before: prompts",
    ]


@pytest.mark.parametrize("height", [1, 2, 3, 4, 5, 8, 24, 200])
@pytest.mark.parametrize("width", [1, 5, 20, 40, 80, 200])
def test_a_picture_never_leaves_its_terminal(width, height):
    lines = text(run_at_work(50)[0].view(), width, height)
    assert len(lines) <= height
    assert max(map(len, lines)) <= width


def test_every_value_for_prometheus_is_of_a_metric_with_its_labels():
    told = list(samples(run_at_work()[0].view()))
    for sample in told:
        assert tuple(name for name, _ in sample.tags) == METRICS[sample.name].tags
    drawing = (("step", "sample-model-0"),)
    assert Sample("wrpo_ray_rows_total", 5120, drawing) in told
    assert Sample("wrpo_ray_tokens_total", 11_520_000, drawing) in told
    assert Sample("wrpo_ray_rows_set_aside_total", 20, (*drawing, ("code", "engine_crash"))) in told
    assert Sample("wrpo_ray_gpus_held", 4.0, (*drawing, ("accelerator", "H100"))) in told
    assert Sample("wrpo_ray_gpu_seconds_total", 880.0, (*drawing, ("accelerator", "H100"))) in told
    assert Sample("wrpo_ray_training_loss", 0.69, (("step", "sft"),)) in told
    assert Sample("wrpo_ray_eta_seconds", -1.0) in told
    assert len({(sample.name, sample.tags) for sample in told}) == len(told)


def test_a_run_ends_with_planned_against_actual_and_what_it_held():
    live, _ = run_at_work()
    manifest = Manifest("sft", "0" * 16, {}, {}, (), {}, {}, 30.0)
    assert closing_text(live, {"sft": manifest}) == (
        "planned against actual: there is no plan (no plan for a test)\n\n"
        "this start made 0 steps in 4 min, 1 were complete before; it held 0.289 H100-hours, 0.72 USD"
    )
    stage = {
        "step": "sft", "kind": "training", "seconds": 60.0, "responses": 600.0, "output_tokens": 0.0, "endpoint": None,
        "input_tokens": 0.0, "job": {"name": "sft", "accelerator": "H100", "gpus_per_replica": 1, "gpu_seconds": 60.0},
    }  # fmt: skip
    stage["job"] |= {"max_replicas": 8, "min_replicas": 8, "start_s": 0.0, "after": []}
    live("", StepsChosen(("sft",), (), json.loads(json.dumps({"stages": [stage], "cluster": {"H100": 8}}))))
    told = closing_text(live, {"sft": manifest}).splitlines()
    assert told[1].split() == ["step", "planned", "actual", "actual/planned", "responses", "planned"]
    assert told[2].split() == ["sft", "60", "s", "30", "s", "0.50", "600"]


def test_a_run_without_anything_left_to_do_held_nothing():
    live = LiveRun("demo", PricesConfig(per_hour={"H100": 2.5}), holding, Clock())
    live("", StepsChosen(("prompts", "sample-a")))
    live("prompts", StepFound(1.0))
    live("sample-a", StepFound(100.0))
    assert progress_line(live.view()) == "progress: 2/2 steps | 0 GPU-h | nothing left"
    assert closing_text(live, {}).endswith(
        "this start made 0 steps in 0.0 s, 2 were complete before; it held no accelerator-hours"
    )


IN_A_TERMINAL = """
import logging, os, signal, sys, threading, time
from tests.unit.test_live_views import run_at_work
from wrpo_ray.console import run_command, start_logging
from wrpo_ray.interrupts import interruptible
from wrpo_ray.live.terminal import on_terminal

@interruptible()
def command():
    with on_terminal(run_at_work()[0].view, sys.stderr):
        for number in range(40):
            logging.getLogger("wrpo_ray.test").info("log line %d", number)
            time.sleep(0.02)
        print("printed")
        other.warning("of a library")
        {end}
    logging.getLogger("wrpo_ray.test").info("after it")
    return 0

start_logging()
# A library's handler that takes whatever sys.stderr is.
other = logging.getLogger("some.library")
other.propagate = False
other.addHandler(logging._StderrHandler(logging.INFO))
sys.exit(run_command(command))
"""
ENDS = {"pass": 0, "raise RuntimeError": 70, "os.kill(os.getpid(), signal.SIGTERM); time.sleep(9)": 7}


@pytest.mark.parametrize("end", ENDS)
def test_a_terminal_keeps_every_log_line_and_is_as_it_was_afterwards(end):
    leader, follower = pty.openpty()
    ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    before = termios.tcgetattr(follower)
    done = subprocess.Popen(
        [sys.executable, "-c", IN_A_TERMINAL.format(end=end)], cwd=REPOSITORY, stdin=follower, stdout=follower,
        stderr=follower, env={**os.environ, "TERM": "xterm-256color", "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    os.set_blocking(leader, False)
    shown = b""
    while done.poll() is None or shown != (shown := shown + _read(leader)):
        shown += _read(leader)
    assert done.returncode == ENDS[end]
    # The last word on the cursor is that it is to be seen; no mode is left on.
    assert shown.rfind(b"\x1b[?25h") > shown.rfind(b"\x1b[?25l")
    assert termios.tcgetattr(follower) == before
    assert b"\x1b[?1049h" not in shown
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", plain)]
    for number in range(40):
        assert sum(line.endswith(f" log line {number}") for line in lines) == 1
    assert lines.count("printed") == lines.count("of a library") == 1
    assert sum(line.startswith("run demo") for line in lines) >= 2
    assert any(line.endswith("after it") for line in lines) == (end == "pass")


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65_536)
    except OSError:
        return b""


def test_left_out_steps_are_none_of_the_run_any_more():
    live, _ = run_at_work()
    live("", StepsChosen(("prompts", "sample-model-0", "score-model-0", "sft", "fuse"), ("model-1",)))
    assert "progress: 1/5 steps" in progress_line(live.view())
    assert progress_line(live.view()).endswith("| without model-1")
    picture = text(live.view(), 100, 30)
    assert picture[3] == "without model-1"
    assert sum("left out" in line for line in picture) == 2
    assert dataclasses.replace(live.view(), broken_sources=()).count("left out") == 2
