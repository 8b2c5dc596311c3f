"""A run as a job: one at a time by its id, told to stop in either way, and with a log that people can read."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.job_cluster import RAY, job_environment, started_cluster

# A cluster of its own and two runs that are broken off.
pytestmark = pytest.mark.slow
REPOSITORY = Path(__file__).parents[2]
CONFIG = ["--config", "jobs/configs/smoke.yaml"]
# What Ray grants between SIGTERM and SIGKILL (ray: job_supervisor.py, DEFAULT_RAY_JOB_STOP_WAIT_TIME_S).
GRACE_S = 3.0


@dataclass
class Following:
    """A command that submitted a job and shows its log, in a file."""

    process: subprocess.Popen[bytes]
    log: Path

    def submission_id(self) -> str:
        def named() -> re.Match[str] | None:
            assert self.process.poll() in (None, 0), self.log.read_text()
            return re.search(r"^submitted (\S+)$", self.log.read_text(), re.MULTILINE)

        wait_for(named, "the job's id")
        found = named()
        assert found is not None
        return found[1]

    def ended(self) -> tuple[int, str]:
        """Return exit code and what was shown."""
        return self.process.wait(timeout=120), self.log.read_text()


@dataclass
class Jobs:
    """A cluster's jobs, as an operator sees them. folder: of the runs."""

    address: str
    folder: Path

    def __post_init__(self) -> None:
        from ray.job_submission import JobSubmissionClient

        self.client = JobSubmissionClient(self.address)

    def command(self, *more: str) -> list[str]:
        root = f"run.root={self.folder}"
        return [sys.executable, "jobs/submit.py", *CONFIG, "--address", self.address, root, *more]

    def submit(self, *more: str) -> Following:
        log = self.folder / f"log-{len(list(self.folder.glob('log-*')))}"
        with log.open("w") as stream:
            process = subprocess.Popen(
                self.command(*more), cwd=REPOSITORY, env=job_environment(), stdout=stream, stderr=subprocess.STDOUT
            )
        return Following(process, log)

    def pid(self, submission_id: str, run: str) -> int:
        """Wait for the job's driver to sample, and return its pid."""
        wait_for(lambda: self.client.get_job_info(submission_id).driver_info, "a driver that is connected")
        wait_for(lambda: list((self.folder / run).glob("sample-*/*")), "a step that samples")
        return int(self.client.get_job_info(submission_id).driver_info.pid)

    def ended(self, submission_id: str) -> Any:
        wait_for(lambda: self.client.get_job_info(submission_id).status.is_terminal(), "the end of the job")
        return self.client.get_job_info(submission_id)


def wait_for(condition: Callable[[], Any], what: str, timeout_s: float = 200) -> None:
    """Wait until `condition` holds."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < timeout_s, f"waited {timeout_s} s for {what}"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Tell whether a process runs; one that has ended and was not yet asked for its code does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    with pytest.MonkeyPatch.context() as patch, started_cluster(tmp_path_factory.mktemp("head")) as address:
        for name, value in job_environment().items():
            patch.setenv(name, value)
        yield Jobs(address, tmp_path_factory.mktemp("runs"))


@pytest.mark.timeout(600)
def test_a_driver_that_gets_sigterm(jobs: Jobs) -> None:
    """As from a node that is drained. Meanwhile nobody else gets at the run."""
    following = jobs.submit()
    submission_id = following.submission_id()
    assert re.fullmatch(r"wrpo-smoke-[0-9a-f]{8}-1", submission_id)
    pid = jobs.pid(submission_id, "smoke")
    _assert_a_second_submission_is_refused(jobs, submission_id)
    began = time.monotonic()
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: not alive(pid), "the end of the driver", timeout_s=10)
    took_s = time.monotonic() - began
    code, log = following.ended()
    info = jobs.ended(submission_id)
    print(f"SIGTERM to end of the driver: {took_s:.2f} s")
    assert took_s < GRACE_S
    assert (info.status.value, info.driver_exit_code, code) == ("FAILED", 7, 7)
    assert "interrupted by SIGTERM; the same command goes on where it stopped" in log
    _assert_readable(log)


def _assert_a_second_submission_is_refused(jobs: Jobs, submission_id: str) -> None:
    code, said = jobs.submit("--no-wait").ended()
    assert code == 5, said
    assert f"error[WRPO-J001]: this run has a job already: {submission_id}" in said
    # Whoever goes round our command is stopped by Ray.
    entrypoint = ["python", "jobs/fuse.py", *CONFIG]
    command = [RAY, "job", "submit", "--address", jobs.address, "--submission-id", submission_id, "--", *entrypoint]
    again = subprocess.run(
        command, cwd=REPOSITORY, env=job_environment(), capture_output=True, text=True, check=False, timeout=60
    )
    assert again.returncode != 0
    assert "already exists" in again.stdout + again.stderr


def _assert_readable(log: str) -> None:
    """Plain lines, no escape sequences, no line that overwrites another, no stack trace, nothing said over and over."""
    lines = log.splitlines()
    assert len(lines) > 10
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", log)
    assert "Traceback" not in log
    assert max(map(len, lines)) < 1000
    assert max(lines.count(line) for line in lines if line.strip()) <= 3, max(lines, key=lines.count)


@pytest.mark.timeout(600)
def test_ray_job_stop(jobs: Jobs) -> None:
    """Ray keeps no exit code of a job that it stopped, so a shell around the driver writes it down."""
    submission_id = jobs.submit("--no-wait").submission_id()
    # What another test left behind is under another number, and does not stand in the way.
    assert re.fullmatch(r"wrpo-smoke-[0-9a-f]{8}-[12]", submission_id)
    jobs.client.stop_job(submission_id)
    assert jobs.ended(submission_id).status.value == "STOPPED"
    code = jobs.folder / "exit-code"
    driver = shlex.join(["python", "jobs/fuse.py", *CONFIG, f"run.root={jobs.folder}", "run.name=stopped"])
    # A trap without a command keeps the shell alive until the driver has ended, and is not passed on.
    script = f"trap : TERM; {driver}; echo $? > {shlex.quote(str(code))}"
    wrapped = jobs.client.submit_job(
        entrypoint=shlex.join(["bash", "-c", script]), runtime_env={"working_dir": str(REPOSITORY)}
    )
    pid = jobs.pid(wrapped, "stopped")
    began = time.monotonic()
    jobs.client.stop_job(wrapped)
    wait_for(lambda: not alive(pid), "the end of the driver", timeout_s=10)
    took_s = time.monotonic() - began
    assert jobs.ended(wrapped).status.value == "STOPPED"
    print(f"ray job stop to end of the driver: {took_s:.2f} s")
    assert took_s < GRACE_S
    assert code.read_text() == "7\n"
    assert "interrupted by SIGTERM; the same command goes on" in jobs.client.get_job_logs(wrapped)
