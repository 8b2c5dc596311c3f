"""A run of the real stack, of which a random process is killed every 20 to 40 seconds: make chaos.

vLLM, the verifier, DeepSpeed, Ray: all real, on the demo's models and prompts. The same command is given again until it
ends with 0; quadruples and training losses must equal those of a run that nobody disturbed.

CHAOS_SEED chooses the victims (printed; a new one every time otherwise), CHAOS_MINUTES how long they are hunted (4).
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from wrpo_ray.schema import Quadruple
from wrpo_ray.storage.location import locate
from wrpo_ray.storage.tables import read_rows
from wrpo_ray.train.metrics import METRICS_FILE

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(3600)]
REPOSITORY = Path(__file__).parents[2]
MAX_STARTS = 40
# Shorter than the paper's demo: the path is the same, and the run is done twice.
OVERRIDES = (
    "evaluation=null", "sft.checkpoint_every_steps=5", "wrpo.checkpoint_every_steps=5", "sft.num_epochs=3",
    "wrpo.num_epochs=2", "target.sampling.num_samples=8", "sources.smollm2.resources.prompts_per_shard=64",
    "sources.qwen2-elements.resources.prompts_per_shard=64", "sources.neox-verbs.resources.prompts_per_shard=64",
    "target.resources.prompts_per_shard=64", "sources.smollm2.sampling.num_samples=1", "run.lease_timeout_s=20",
)  # fmt: skip


@dataclass
class Hunt:
    """Who was killed when, and how every start of the run ended."""

    seed: int
    minutes: float
    kills: list[str] = field(default_factory=list)
    exit_codes: list[int] = field(default_factory=list)


def start(root: Path, log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "jobs/fuse.py", "--config", "jobs/configs/demo.yaml", f"run.root={root}", *OVERRIDES]
    with log.open("ab") as stream:
        # A session of its own, so that its processes can be told from ours even when they lose their parent.
        return subprocess.Popen(command, cwd=REPOSITORY, stdout=stream, stderr=stream, start_new_session=True)


def kind(process: psutil.Process) -> str:
    """Return what a process is for: raylet, gcs_server, the engine's child, or the name that Ray gave a worker."""
    command = process.cmdline()
    if "wrpo_ray.engines.child" in command:
        return "engine child"
    name = Path(command[0]).name if command else process.name()
    return command[0].split("(")[0].strip() if command and command[0].startswith("ray::") else name


def kill_one(driver: psutil.Process, choice: random.Random) -> str | None:
    """Kill the driver or one of its descendants, each kind of process being equally likely."""
    kinds: dict[str, list[psutil.Process]] = {}
    for process in [driver, *driver.children(recursive=True)]:
        # Some end while they are looked at.
        with suppress(psutil.NoSuchProcess):
            kinds.setdefault("driver" if process == driver else kind(process), []).append(process)
    what = choice.choice(sorted(kinds))
    victim = choice.choice(sorted(kinds[what], key=lambda process: process.pid))
    with suppress(psutil.NoSuchProcess):
        victim.kill()
        return f"{what} ({victim.pid})"
    return None


def end_rest(processes: list[psutil.Process]) -> None:
    """What a killed driver leaves ends by itself; nothing of it may touch the next start's measurements."""
    _, alive = psutil.wait_procs(processes, timeout=30)
    for process in alive:
        process.kill()


def hunt(root: Path, log: Path, seed: int, minutes: float) -> Hunt:
    """Start the run until it ends with 0, killing at random while the hunt is on."""
    choice, told = random.Random(seed), Hunt(seed, minutes)
    deadline = time.monotonic() + 60 * minutes
    while len(told.exit_codes) < MAX_STARTS:
        driver = start(root, log)
        watched = psutil.Process(driver.pid)
        seen: dict[int, psutil.Process] = {}
        next_kill = time.monotonic() + choice.uniform(20, 40)
        while driver.poll() is None:
            time.sleep(0.5)
            with suppress(psutil.NoSuchProcess):
                seen |= {process.pid: process for process in watched.children(recursive=True)}
            if time.monotonic() < min(next_kill, deadline):
                continue
            with suppress(psutil.NoSuchProcess):
                if time.monotonic() < deadline and (killed := kill_one(watched, choice)) is not None:
                    told.kills.append(killed)
                    print(f"killed {killed}", flush=True)
            next_kill = time.monotonic() + choice.uniform(20, 40)
        told.exit_codes.append(driver.returncode)
        print(f"start {len(told.exit_codes)} ended with {driver.returncode}", flush=True)
        end_rest(list(seen.values()))
        if driver.returncode == 0:
            return told
    return told


def results(root: Path) -> dict[str, Any]:
    """Return the quadruples and the losses of both trainings, bit for bit."""
    run = root / "demo"
    (fused,) = run.glob("fuse/*")
    losses = {}
    for step in ("sft", "wrpo"):
        (metrics,) = run.glob(f"{step}/*/{METRICS_FILE}")
        rows = [json.loads(line) for line in metrics.read_text().splitlines()]
        losses[step] = [(row["step"], float(row["loss"]).hex()) for row in rows]
    return {"quadruples": read_rows(locate(fused), Quadruple), **losses}


def num_rows(root: Path) -> dict[str, int]:
    """Return rows and distinct rows of all sampling steps."""
    import pyarrow.parquet as pq

    rows = []
    for path in (root / "demo").glob("sample-*/*/data/*.parquet"):
        table = pq.read_table(path, columns=["prompt_id", "source", "sample_index"])
        rows += list(zip(*(table[name].to_pylist() for name in table.column_names), strict=True))
    return {"rows": len(rows), "distinct": len(set(rows))}


def test_a_run_under_fire_ends_with_the_result_of_one_in_peace(tmp_path: Path) -> None:
    if not (REPOSITORY / "demo_assets").exists():
        subprocess.run(
            [sys.executable, "-m", "jobs.demo.make_assets", "--out", "demo_assets"], cwd=REPOSITORY, check=True
        )
    seed = int(os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(10**6))
    minutes = float(os.environ.get("CHAOS_MINUTES") or 4)
    print(f"CHAOS_SEED={seed} CHAOS_MINUTES={minutes:g}; logs below {tmp_path}", flush=True)
    clean, fire = tmp_path / "clean", tmp_path / "fire"
    peace = hunt(clean, tmp_path / "clean.log", seed, 0)
    assert peace.exit_codes == [0], (tmp_path / "clean.log").read_text()[-4000:]
    war = hunt(fire, tmp_path / "fire.log", seed, minutes)
    print(f"{len(war.kills)} kills, {len(war.exit_codes)} starts, exit codes {war.exit_codes}: {war.kills}", flush=True)
    assert war.exit_codes[-1] == 0, (tmp_path / "fire.log").read_text()[-4000:]
    expected, found = results(clean), results(fire)
    assert num_rows(fire) == num_rows(clean)
    assert num_rows(fire)["rows"] == num_rows(fire)["distinct"]
    assert found["quadruples"] == expected["quadruples"]
    assert found["sft"] == expected["sft"]
    assert found["wrpo"] == expected["wrpo"]
