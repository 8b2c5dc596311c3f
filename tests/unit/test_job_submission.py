"""A run's Ray job: its id, who may submit, what is printed of it, and how it ends; against a Jobs API of the test."""

import re
import shlex
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.job_submission import JobStatus

from wrpo_ray import job_submission
from wrpo_ray.config import FuseConfig
from wrpo_ray.errors import ConfigError, InterruptedRunError, LeaseError
from wrpo_ray.job_submission import Job, connect, exit_code, follow, submission_stem, submit

ROOT = Path(__file__).parents[2]


def details(submission_id: str | None, status: str, code: int | None = None, error: str | None = None):
    return SimpleNamespace(
        submission_id=submission_id, status=JobStatus(status), driver_exit_code=code, error_type=error
    )


@dataclass
class FakeJobs:
    """The part of Ray's client that is used. script: what tailing gives, connection by connection."""

    jobs: list = field(default_factory=list)
    script: list = field(default_factory=list)
    statuses: Iterator = field(default_factory=lambda: iter(()))
    refusal: str = ""
    submitted: dict = field(default_factory=dict)

    def list_jobs(self) -> list:
        return self.jobs

    def submit_job(self, **given) -> str:
        if self.refusal:
            raise RuntimeError(self.refusal)
        self.submitted = given
        return given["submission_id"]

    def get_job_info(self, submission_id: str):
        now = next(self.statuses)
        if isinstance(now, Exception):
            raise now
        return now

    async def tail_job_logs(self, submission_id: str) -> AsyncIterator[str]:
        for part in self.script.pop(0):
            if isinstance(part, Exception):
                raise part
            yield part


@pytest.fixture
def config() -> FuseConfig:
    return smoke("s3://bucket/runs", "my.run")


def smoke(root: str, name: str) -> FuseConfig:
    from wrpo_ray.config_file import load_config

    return load_config(str(ROOT / "jobs/configs/smoke.yaml"), [f"run.root={root}", f"run.name={name}"])


def job(config: FuseConfig, *extra: str) -> Job:
    return Job(config, str(ROOT / "jobs/configs/smoke.yaml"), str(ROOT), extra)


def test_the_id_says_which_run_it_is(config: FuseConfig) -> None:
    stem = submission_stem(config)
    assert re.fullmatch(r"wrpo-my-run-[0-9a-f]{8}", stem)
    assert stem == submission_stem(smoke("s3://bucket/runs/", "my.run"))
    others = [smoke("s3://bucket/other", "my.run"), smoke("s3://bucket/runs", "my-run")]
    assert len({stem, *map(submission_stem, others)}) == 3


def test_a_job_is_the_readme_s_command(config: FuseConfig) -> None:
    client = FakeJobs()
    submission_id = submit(client, job(config, "run.name=my.run", "wrpo.beta=0.02", "--accept-changes"))
    assert submission_id == f"{submission_stem(config)}-1"
    assert shlex.split(client.submitted["entrypoint"]) == [
        "python", "jobs/fuse.py", "--config", "jobs/configs/smoke.yaml",
        "run.name=my.run", "wrpo.beta=0.02", "--accept-changes",
    ]  # fmt: skip
    assert client.submitted["runtime_env"] == {"working_dir": str(ROOT)}
    assert client.submitted["metadata"] == {"job_name": "my.run", "run_root": "s3://bucket/runs"}


def test_a_run_that_ended_is_submitted_again_under_the_next_number(config: FuseConfig) -> None:
    stem = submission_stem(config)
    ended = [details(f"{stem}-2", "FAILED"), details(f"{stem}-10", "STOPPED"), details(f"{stem}-9", "SUCCEEDED")]
    others = [details(None, "RUNNING"), details("raysubmit_x", "RUNNING"), details(f"{stem}-x", "RUNNING")]
    assert submit(FakeJobs(jobs=[*ended, *others]), job(config)) == f"{stem}-11"


@pytest.mark.parametrize("status", ["PENDING", "RUNNING"])
def test_a_run_whose_job_is_under_way_is_refused_by_name(config: FuseConfig, status: str) -> None:
    running = f"{submission_stem(config)}-3"
    client = FakeJobs(jobs=[details(running, status)])
    with pytest.raises(LeaseError, match=running) as caught:
        submit(client, job(config))
    assert caught.value.code == "WRPO-J001"
    assert f"ray job stop {running}" in str(caught.value.help)
    assert client.submitted == {}


def test_of_two_submitters_at_once_ray_refuses_the_second(config: FuseConfig) -> None:
    said = "Request failed with status code 500: Job with submission_id x already exists."
    with pytest.raises(LeaseError) as caught:
        submit(FakeJobs(refusal=said), job(config))
    assert caught.value.code == "WRPO-J001"


def test_a_cluster_that_does_not_take_the_job(config: FuseConfig) -> None:
    with pytest.raises(ConfigError, match="no space left") as caught:
        submit(FakeJobs(refusal="Request failed\nno space left"), job(config))
    assert caught.value.code == "WRPO-J004"


def test_what_a_job_would_not_find_is_refused(config: FuseConfig, tmp_path: Path) -> None:
    outside = tmp_path / "my.yaml"
    outside.write_text("x: 1")
    for path, folder in [(str(outside), str(ROOT)), (str(outside), str(tmp_path)), ("missing.yaml", str(ROOT))]:
        with pytest.raises(ConfigError) as caught:
            Job(config, path, folder).entrypoint()
        assert caught.value.code == "WRPO-J002"


@pytest.mark.parametrize("root", ["runs", "./runs", "../runs"])
def test_results_that_would_end_with_the_job_are_refused(root: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(root)) as caught:
        job(smoke(root, "a")).entrypoint()
    assert caught.value.code == "WRPO-J003"


def test_nobody_listens() -> None:
    with pytest.raises(ConfigError) as caught:
        connect("http://127.0.0.1:9")
    assert caught.value.code == "WRPO-J004"
    assert "127.0.0.1:9" in str(caught.value)


@pytest.mark.parametrize(
    ("status", "code", "error", "expected"),
    [
        ("SUCCEEDED", 0, None, 0),
        ("SUCCEEDED", None, None, 0),
        ("FAILED", 4, "JOB_ENTRYPOINT_COMMAND_ERROR", 4),
        ("FAILED", 70, "JOB_ENTRYPOINT_COMMAND_ERROR", 70),
        ("FAILED", 7, "JOB_ENTRYPOINT_COMMAND_ERROR", 7),
        ("FAILED", -9, "JOB_ENTRYPOINT_COMMAND_ERROR", 7),
        ("FAILED", 137, "JOB_ENTRYPOINT_COMMAND_ERROR", 7),
        ("FAILED", None, "JOB_SUPERVISOR_ACTOR_DIED", 7),
        ("FAILED", None, "RUNTIME_ENV_SETUP_FAILURE", 2),
        ("STOPPED", None, None, 7),
    ],
)
def test_exit_codes(status: str, code: int | None, error: str | None, expected: int) -> None:
    assert exit_code(details("x", status, code, error)) == expected


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_submission, "_PAUSE_S", 0.0)


@pytest.mark.usefixtures("no_pause")
def test_a_log_is_printed_once_whatever_the_connection_does(capsys: pytest.CaptureFixture[str]) -> None:
    """Every connection is sent the log from its beginning, in pieces of other sizes."""
    running, ended = details("x", "RUNNING"), details("x", "FAILED", 3)
    client = FakeJobs(
        script=[["one\ntw", RuntimeError("cut")], ["o"], ["one\n", "two\nthr", OSError("cut")], ["one\ntwo\nthree\n"]],
        statuses=iter([running, ConnectionError("away"), running, running, ended]),
    )
    assert follow(client, "x") == 3
    assert capsys.readouterr().out == "one\ntwo\nthree\n"


@pytest.mark.usefixtures("no_pause")
def test_a_cluster_that_stays_away_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_submission, "PATIENCE_S", 0.05)
    client = FakeJobs(statuses=iter(lambda: ConnectionError("away"), None))
    with pytest.raises(InterruptedRunError, match="away") as caught:
        follow(client, "x")
    assert caught.value.code == "WRPO-J006"


def test_ctrl_c_says_that_the_job_goes_on() -> None:
    def interrupted(_: str) -> None:
        raise KeyboardInterrupt

    client = SimpleNamespace(get_job_info=interrupted)
    with pytest.raises(InterruptedRunError, match="job x goes on") as caught:
        follow(client, "x")  # pyright: ignore[reportArgumentType]
    assert caught.value.code == "WRPO-J005"


def test_the_command_checks_everything_before_it_asks_a_cluster() -> None:
    command = [
        sys.executable,
        "jobs/submit.py",
        "--config",
        "jobs/configs/smoke.yaml",
        "--address",
        "http://127.0.0.1:9",
    ]
    for extra, code in [([], "WRPO-J003"), (["run.root=/shared/runs"], "WRPO-J004")]:
        found = subprocess.run([*command, *extra], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
        assert (found.returncode, code in found.stderr) == (2, True), found.stderr
