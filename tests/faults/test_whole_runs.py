"""Drivers that are killed, started twice, told to stop, or given another config, on a cluster of three raylets.

Engines are fakes (deterministic, so that equality can be exact); all else is the real driver.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.faults.fake_engine import FaultFolder, wait_until
from tests.faults.multi_raylet import raylets
from tests.tiny import chatml_tokenizer, save_llama
from wrpo_ray.cluster_auth import answers_anybody
from wrpo_ray.schema import Quadruple, ResponseWithLogps
from wrpo_ray.storage.location import locate
from wrpo_ray.storage.manifest import read_manifest
from wrpo_ray.storage.tables import read_rows

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(420)]
NUM_PROMPTS, PER_SHARD, SAMPLES = 24, 4, 2
REPOSITORY = Path(__file__).parents[2]
CANARY = "canary-5f0c9e1d"


@dataclass
class Bench:
    """Config, models and cluster that all runs of this module share."""

    folder: Path
    address: str

    def start(self, name: str, *arguments: str, faults: str | None = None) -> subprocess.Popen[str]:
        command = [
            sys.executable, "-m", "tests.faults.driver", str(self.folder / "config.yaml"),
            str(self.faults(faults or name)), f"run.name={name}", f"ray.address={self.address}",
            "ray.allow_open_cluster=true", *arguments,
        ]  # fmt: skip
        environment = {
            **os.environ, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(REPOSITORY), "SECRET_TOKEN": CANARY,
        }  # fmt: skip
        return subprocess.Popen(
            command, cwd=self.folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def finish(self, name: str, *arguments: str, faults: str | None = None) -> tuple[int, str]:
        driver = self.start(name, *arguments, faults=faults)
        output, _ = driver.communicate(timeout=240)
        return driver.returncode, output

    def faults(self, name: str) -> Path:
        return self.folder / "faults" / name

    def run_folder(self, name: str) -> Path:
        return self.folder / "runs" / name

    def commits(self, name: str) -> list[Path]:
        return sorted(self.run_folder(name).glob("*/*/commits/*.json"))

    def prompts_drawn(self, name: str) -> int:
        """Prompts that reached a generating engine, repeats included."""
        models = ("a", "b", "target-sft")
        return sum(
            len(event["ids"]) for model in models for event in FaultFolder(self.faults(name) / model).events("batch")
        )


def result(folder: Path) -> tuple[list[Quadruple], dict[str, str]]:
    """Return the quadruples, and the SHA-256 of every data file of the run by step and name."""
    (fused,) = folder.glob("fuse/*")
    digests = {
        f"{path.parents[2].name}/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.glob("*/*/data/*.parquet"))
    }
    return read_rows(locate(fused), Quadruple), digests


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("whole")
    for number, name in enumerate(("a", "b", "t")):
        save_llama(folder / name, chatml_tokenizer(), seed=number)
    rows = [{"prompt": f"question {number}", "answer": str(number)} for number in range(NUM_PROMPTS)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "config.yaml").write_text(f"""
run: {{name: r, root: {folder / "runs"}, lease_timeout_s: 12}}
prompts: {{path: {folder / "prompts.jsonl"}, answer_column: answer}}
model_defaults:
  engine: {{max_model_len: 128}}
  sampling: {{max_tokens: 8, num_samples: {SAMPLES}}}
  resources: {{prompts_per_shard: {PER_SHARD}}}
sources: [{{name: a, path: {folder / "a"}}}, {{name: b, path: {folder / "b"}}}]
target: {{name: t, path: {folder / "t"}}}
reward: {{type: verifier}}
sft: {{learning_rate: 1e-3, max_length: 64, max_prompt_length: 32}}
wrpo: {{learning_rate: 1e-3, max_length: 64, max_prompt_length: 32}}
faults: {{engine_start_attempts: 2}}
""")
    with raylets(num_workers=2) as cluster:
        yield Bench(folder, cluster.address)


@pytest.fixture(scope="module")
def clean(bench: Bench) -> tuple[list[Quadruple], dict[str, str]]:
    code, output = bench.finish("clean")
    assert code == 0, output
    # Promise I, and no prompt's text in what is logged.
    assert CANARY not in output
    assert "question 1" not in output
    assert [
        path for path in bench.run_folder("clean").rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()
    ] == []
    # Every prompt once for each source, those of the preference split once more for the target.
    preference = read_manifest(locate(next(bench.run_folder("clean").glob("prompts/*"))))
    assert preference is not None
    assert bench.prompts_drawn("clean") == 2 * NUM_PROMPTS + preference.summary["num_preference"]
    return result(bench.run_folder("clean"))


def test_a_cluster_without_tokens_is_joined_only_on_demand(bench: Bench) -> None:
    assert answers_anybody(bench.address)
    code, output = bench.finish("open", "ray.allow_open_cluster=false")
    assert (code, "WRPO-C120" in output) == (2, True), output


def make_slow(bench: Bench, name: str, clean_rows: list[Quadruple], seconds: float = 0.4) -> None:
    """Let a shard take a while, so that a driver can be met at work."""
    for model in ("a", "b", "target-sft"):
        for row in clean_rows:
            FaultFolder(bench.faults(name) / model).plan(row.prompt_id, "slow", seconds=seconds)


def test_p08_a_driver_killed_at_any_commit_goes_on_without_doing_anything_twice(
    bench: Bench, clean: tuple[list[Quadruple], dict[str, str]]
) -> None:
    make_slow(bench, "killed", clean[0])
    num_commits = len(bench.commits("clean"))
    kill_at = [0, 1, num_commits // 2, num_commits - 1]
    for number, count in enumerate(kill_at):
        driver = bench.start("killed")
        wait_until(
            lambda number=number: len(list(bench.run_folder("killed").glob("submissions/*.json"))) > number,
            "the driver to begin",
        )
        wait_until(lambda count=count: len(bench.commits("killed")) >= count, f"{count} commits", timeout_s=120)
        driver.kill()
        driver.communicate()
    committed = {path: path.read_bytes() for path in bench.commits("killed")}
    code, output = bench.finish("killed")
    assert code == 0, output
    assert result(bench.run_folder("killed")) == clean
    # Promise B: what was committed before is what it was.
    assert {path: path.read_bytes() for path in committed} == committed
    # Promise D: at most the shard in flight is lost with each kill.
    redone = bench.prompts_drawn("killed") - bench.prompts_drawn("clean")
    assert 0 <= redone <= len(kill_at) * PER_SHARD
    print(f"killed at {kill_at} of {num_commits} commits: {redone} prompts drawn again")


def test_p09_of_two_drivers_at_once_one_runs_and_the_other_names_it(
    bench: Bench, clean: tuple[list[Quadruple], dict[str, str]]
) -> None:
    make_slow(bench, "twice", clean[0])
    first = bench.start("twice")
    wait_until(lambda: len(bench.commits("twice")) >= 1, "the first driver to work", timeout_s=120)
    second = bench.start("twice")
    started = time.monotonic()
    output, _ = second.communicate(timeout=60)
    assert second.returncode == 5, output
    assert "WRPO-L001" in output
    assert str(first.pid) in output
    # Start of Python and imports included.
    assert time.monotonic() - started < 25
    told, _ = first.communicate(timeout=240)
    assert first.returncode == 0, told
    assert result(bench.run_folder("twice")) == clean


@pytest.mark.slow
def test_p09_without_a_lease_two_drivers_double_no_row(
    bench: Bench, clean: tuple[list[Quadruple], dict[str, str]]
) -> None:
    make_slow(bench, "unleased", clean[0], seconds=0.1)
    drivers = [bench.start("unleased", "run.lease_timeout_s=0") for _ in range(2)]
    for driver in drivers:
        output, _ = driver.communicate(timeout=240)
        assert driver.returncode == 0, output
    assert result(bench.run_folder("unleased")) == clean


def test_p30_sigterm_ends_a_run_with_7_within_3_seconds_and_it_goes_on(
    bench: Bench, clean: tuple[list[Quadruple], dict[str, str]]
) -> None:
    make_slow(bench, "stopped", clean[0])
    driver = bench.start("stopped")
    wait_until(lambda: len(bench.commits("stopped")) >= 2, "two commits", timeout_s=120)
    started = time.monotonic()
    driver.send_signal(signal.SIGTERM)
    output, _ = driver.communicate(timeout=30)
    assert time.monotonic() - started < 3
    assert driver.returncode == 7, output
    assert "WRPO-I001" in output
    assert "Traceback" not in output
    code, output = bench.finish("stopped")
    assert code == 0, output
    assert result(bench.run_folder("stopped")) == clean


def test_p31_another_config_is_refused_with_what_differs_and_free_fields_are_free(
    bench: Bench, clean: tuple[list[Quadruple], dict[str, str]]
) -> None:
    code, output = bench.finish("clean", "sources.a.sampling.temperature=0.5")
    assert code == 2
    assert "WRPO-R002" in output
    assert "sample-a: sampling.temperature: 0.8 -> 0.5" in output
    assert "--accept-changes" in output
    drawn = bench.prompts_drawn("clean")
    code, output = bench.finish("clean", "faults.stall_timeout_s=99", "sources.a.resources.num_replicas=2")
    assert code == 0, output
    assert bench.prompts_drawn("clean") == drawn
    assert result(bench.run_folder("clean")) == clean


def test_a_second_run_makes_only_what_differs(bench: Bench, clean: tuple[list[Quadruple], dict[str, str]]) -> None:
    before = result(bench.run_folder("clean"))
    code, output = bench.finish("same", "run.reuse=[clean]")
    assert code == 0, output
    assert f"fuse: complete already ({bench.run_folder('clean')}/fuse/" in output
    # Nothing differs: no engine is started, and the run holds records alone.
    assert bench.prompts_drawn("same") == 0
    assert {path.name for path in bench.run_folder("same").iterdir()} <= {"lease", "submissions", "broken_sources"}
    # The target's responses are asked for with their log-probs: drawn again, and the same ones.
    code, output = bench.finish("other", "run.reuse=[clean]", "wrpo.reference_from_sampler=true")
    assert code == 0, output
    num_preference = bench.prompts_drawn("clean") - 2 * NUM_PROMPTS
    assert bench.prompts_drawn("other") == num_preference
    starts = {name: len(FaultFolder(bench.faults("other") / name).events("start")) for name in ("a", "b", "target-sft")}
    assert starts == {"a": 0, "b": 0, "target-sft": 1}
    assert result(bench.run_folder("other"))[0] == clean[0]
    (drawn,) = bench.run_folder("other").glob("sample-target-sft/*")
    assert {row.logps <= 0 for row in read_rows(locate(drawn), ResponseWithLogps)} == {True}
    assert result(bench.run_folder("clean")) == before == clean


@pytest.mark.slow
def test_a_run_goes_on_without_a_broken_source_when_it_may(
    bench: Bench, clean: tuple[list[Quadruple], dict[str, str]]
) -> None:
    FaultFolder(bench.faults("broken") / "b").plan("start", "refuse")
    code, output = bench.finish("broken")
    assert code == 8, output
    assert "cannot load start" in output
    code, output = bench.finish("broken", "min_sources=1")
    assert code == 0, output
    rows, _ = result(bench.run_folder("broken"))
    assert {row.source for row in rows} == {"a"}
    record: dict[str, Any] = json.loads((bench.run_folder("broken") / "broken_sources" / "b.json").read_text())
    assert record["code"] == "WRPO-M001"
    # A kill between the record of the broken source and that of the start leaves the former alone.
    max((bench.run_folder("broken") / "submissions").iterdir()).unlink()
    code, output = bench.finish("broken", "min_sources=1")
    assert code == 0, output
    assert "without the source b" in output
    # The repaired source is tried again on request, and the result is that of all sources.
    (bench.faults("broken") / "b" / "faults" / "start.json").unlink()
    code, output = bench.finish("broken", "min_sources=1", "--retry-broken-sources")
    assert code == 0, output
    again = [
        path for path in bench.run_folder("broken").glob("fuse/*") if read_rows(locate(path), Quadruple) == clean[0]
    ]
    assert len(again) == 1
