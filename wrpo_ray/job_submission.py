"""A run as a Ray job whose submission id says which run it is, so that no cluster works on one run twice.

The id is wrpo-<run.name>-<hash of its folder>-<number>. Ray keeps the ids of ended jobs, and their logs with them:
every submission of a run takes the next number, and none is made while another one is under way. Two submitters that
come to the same number at the same time are told apart by Ray, which takes each id once.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import shlex
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wrpo_ray.config import FuseConfig
from wrpo_ray.errors import ConfigError, InterruptedRunError, LeaseError
from wrpo_ray.redaction import last_line

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

log = logging.getLogger(__name__)

ENTRYPOINT = "jobs/fuse.py"
# How long a dashboard may be away (a head that is restarted, a network that is cut) before a job is given up for lost.
PATIENCE_S = 120.0
_PAUSE_S = 1.0
_FORBIDDEN = re.compile(r"[^A-Za-z0-9_-]")
# What the Jobs API answers with when it does not answer as it should (ray: dashboard/modules/dashboard_sdk.py), and
# what its connections raise.
_UNREACHABLE = (ConnectionError, RuntimeError, OSError)


def submission_stem(config: FuseConfig) -> str:
    """Return what the submission ids of all jobs of this run begin with, as Ray and Kubernetes take it."""
    folder = f"{config.run.root.rstrip('/')}/{config.run.name}"
    return f"wrpo-{_FORBIDDEN.sub('-', config.run.name)}-{hashlib.sha256(folder.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class Job:
    """What a cluster is asked to do. config_path: of the file; extra: overrides and options, passed on unchanged."""

    config: FuseConfig
    config_path: str
    working_dir: str = "."
    extra: tuple[str, ...] = ()

    def entrypoint(self) -> str:
        """Return the command line of the driver, relative to its copy of the working directory.

        Raises ConfigError when something that it names would not be there.
        """
        folder = Path(self.working_dir).resolve()
        path = Path(self.config_path).resolve()
        for needed in (folder / ENTRYPOINT, path):
            if not needed.is_file() or not needed.is_relative_to(folder):
                raise ConfigError(
                    f"{needed} is not in the working directory {folder}, which is all that goes with a job",
                    code="WRPO-J002", help="name with --working-dir the folder that holds jobs/ and the config",
                )  # fmt: skip
        _require_lasting_root(self.config)
        return shlex.join(["python", ENTRYPOINT, "--config", str(path.relative_to(folder)), *self.extra])


def _require_lasting_root(config: FuseConfig) -> None:
    root = config.run.root
    if "://" not in root and not Path(root).is_absolute():
        raise ConfigError(
            f"run.root {root!r} is relative: it would lie in the job's copy of the working directory, and end with it",
            code="WRPO-J003",
            help="set run.root to s3://bucket/prefix, gs://bucket/prefix, or a path that every node sees",
        )  # fmt: skip


def connect(address: str | None) -> JobSubmissionClient:
    """Return a client of the cluster at `address` (http://host:8265), else of RAY_API_SERVER_ADDRESS or RAY_ADDRESS.

    Raises ConfigError when nothing answers there, or not as a Ray cluster that lets this user in.
    """
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except (*_UNREACHABLE, AuthenticationError) as error:
        raise ConfigError(
            f"no Ray cluster takes jobs at {address or 'the address of the environment'}: {last_line(str(error))}",
            code="WRPO-J004",
            help="--address or RAY_API_SERVER_ADDRESS names its dashboard, RAY_AUTH_TOKEN_PATH its token",
        ) from error  # fmt: skip


def submit(client: JobSubmissionClient, job: Job) -> str:
    """Hand `job` to the cluster and return its submission id; LeaseError when the run has a job already."""
    entrypoint, stem = job.entrypoint(), submission_stem(job.config)
    submission_id = f"{stem}-{_next_number(stem, client.list_jobs())}"
    try:
        return client.submit_job(
            entrypoint=entrypoint,
            submission_id=submission_id,
            runtime_env={"working_dir": str(Path(job.working_dir).resolve())},
            metadata={"job_name": job.config.run.name, "run_root": job.config.run.root},
        )
    except RuntimeError as error:
        if "already exists" in str(error):
            raise _running(submission_id) from error
        raise ConfigError(
            f"the cluster did not take the job: {last_line(str(error))}", code="WRPO-J004",
            help="`wrpo-ray doctor` says whether versions fit; the head's log says more",
        ) from error  # fmt: skip


def _next_number(stem: str, jobs: Iterable[Any]) -> int:
    """Return the number of the run's next job; LeaseError while one is under way."""
    numbers = [0]
    for job in jobs:
        before, _, number = (job.submission_id or "").rpartition("-")
        if before != stem or not number.isdecimal():
            continue
        if not job.status.is_terminal():
            raise _running(job.submission_id)
        numbers.append(int(number))
    return max(numbers) + 1


def _running(submission_id: str) -> LeaseError:
    return LeaseError(
        f"this run has a job already: {submission_id}", code="WRPO-J001",
        help=f"`ray job logs --follow {submission_id}` shows it, `ray job stop {submission_id}` ends it; "
        "then the same command goes on where it stopped",
    )  # fmt: skip


def follow(client: JobSubmissionClient, submission_id: str) -> int:
    """Print the job's log as it comes, until it ends, and return its exit code; see exit_code.

    A dashboard that is away for less than PATIENCE_S is waited for. Ctrl-C ends the printing, not the job.
    """
    try:
        ended = asyncio.run(_followed(client, submission_id))
    except KeyboardInterrupt:
        raise InterruptedRunError(
            f"job {submission_id} goes on without this command", code="WRPO-J005",
            help=f"`ray job logs --follow {submission_id}` shows it again, `ray job stop {submission_id}` ends it",
        ) from None  # fmt: skip
    return exit_code(ended)


@dataclass
class _Printed:
    """How much of a log is on the screen, and of what this connection has sent: each one begins with the beginning."""

    num_shown: int = 0
    num_sent: int = 0

    def more(self, text: str) -> None:
        """Print what is new of `text`."""
        new = text[max(0, self.num_shown - self.num_sent) :]
        self.num_sent += len(text)
        self.num_shown = max(self.num_shown, self.num_sent)
        sys.stdout.write(new)
        sys.stdout.flush()


async def _followed(client: JobSubmissionClient, submission_id: str) -> Any:
    """Return the job's details once it has ended and its log is printed."""
    from aiohttp import ClientError

    printed, away_since = _Printed(), None
    while True:
        try:
            info = await asyncio.to_thread(client.get_job_info, submission_id)
            away_since, printed.num_sent = None, 0
            async for text in client.tail_job_logs(submission_id):
                printed.more(text)
            if info.status.is_terminal():
                return info
        except (*_UNREACHABLE, ClientError) as error:
            away_since = away_since or time.monotonic()
            if time.monotonic() - away_since > PATIENCE_S:
                raise _lost(submission_id, error) from error
            log.warning("the cluster does not answer; asking again: %s", last_line(str(error)))
        await asyncio.sleep(_PAUSE_S)


def _lost(submission_id: str, error: Exception) -> InterruptedRunError:
    return InterruptedRunError(
        f"the cluster has not answered for {PATIENCE_S:g} s: {last_line(str(error))}", code="WRPO-J006",
        help=f"when it is back, `ray job logs {submission_id}` says what became of the job",
    )  # fmt: skip


def exit_code(ended: Any) -> int:
    """Return the exit code of a job's driver, where Ray knows it; 7 for a job that something else ended.

    ended: JobDetails. Ray stores no exit code of a job that was stopped, nor of one whose node died: the same command
    goes on in both cases.
    """
    succeeded, told = str(ended.status.value) == "SUCCEEDED", ended.driver_exit_code
    if succeeded or (told is not None and 0 < told < 128):
        return told or 0
    if ended.error_type == "RUNTIME_ENV_SETUP_FAILURE":
        return ConfigError.exit_code
    return InterruptedRunError.exit_code


def how_to_look(submission_id: str) -> Sequence[str]:
    """Return the lines that say how to look at a job, and how to end it."""
    return [
        f"submitted {submission_id}",
        f"  ray job logs --follow {submission_id}",
        f"  ray job stop {submission_id}",
    ]
