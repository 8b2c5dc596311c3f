"""The smoke run on this machine, watched: what listens while it runs, and what it leaves that secrets could be in."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.canaries import CANARIES, files_that_tell, told_in
from tests.sockets import open_to_others

REPOSITORY = Path(__file__).parents[2]
FUSE = ["jobs/fuse.py", "--config", "jobs/configs/smoke.yaml", "ray.address=local", "--debug"]
_LOOK_EVERY_S = 0.3


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_local_run_opens_no_door_and_tells_no_secret(tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    # Ray's sockets must have short paths.
    with tempfile.TemporaryDirectory(prefix="wrpo-", dir="/tmp") as session:
        environment = {**kept, **CANARIES, "HOME": str(tmp_path), "RAY_TMPDIR": session}
        output = tmp_path / "output.txt"
        with output.open("w") as stream:
            command = [sys.executable, *FUSE, f"run.root={tmp_path / 'runs'}"]
            driver = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=stream, stderr=stream)
        opened: set[str] = set()
        while driver.poll() is None:
            opened |= open_to_others(driver.pid)
            time.sleep(_LOOK_EVERY_S)
        assert driver.returncode == 0, output.read_text()[-4000:]
        assert opened == set()
        token = (tmp_path / ".ray" / "auth_token").read_bytes()
        assert told_in(output.read_bytes()) == []
        folders = [tmp_path / "runs", Path(session)]
        assert any(path.suffix == ".parquet" for path in folders[0].rglob("*"))
        assert any(path.suffix == ".log" for path in folders[1].rglob("*"))
        assert files_that_tell(folders) == []
        assert [path for folder in folders for path in folder.rglob("*") if _holds(path, token)] == []


def _holds(path: Path, secret: bytes) -> bool:
    return path.is_file() and secret in path.read_bytes()
