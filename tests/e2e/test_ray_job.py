"""The README's way onto a cluster: `ray job submit --working-dir . -- python jobs/fuse.py --config ...`."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from wrpo_ray.schema import Quadruple
from wrpo_ray.storage import parquet_entries, read_rows

REPOSITORY = Path(__file__).parents[2]
RAY = str(Path(sys.executable).with_name("ray"))


def job_environment() -> dict[str, str]:
    """Return the environment of an operator who works in this virtual environment and has no other cluster in mind."""
    kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return {**kept, "RAY_AUTH_MODE": "disabled", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A cluster of its own, started as an operator does; yields the address of its dashboard."""
    gcs, dashboard, client, agent = free_ports(4)
    # Ray's sockets must have short paths.
    session = Path("/tmp") / f"wrpo-{os.getpid()}"
    environment = job_environment()
    command = [
        RAY, "start", "--head", "--block", "--num-cpus=4", "--node-ip-address=127.0.0.1", f"--port={gcs}",
        "--include-dashboard=true", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}",
        f"--dashboard-agent-listen-port={agent}", f"--temp-dir={session}", "--disable-usage-stats",
    ]  # fmt: skip
    log = (tmp_path_factory.mktemp("head") / "head.log").open("w+")
    head = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    address = f"http://127.0.0.1:{dashboard}"
    try:
        _wait_for_jobs_api(address, environment, head)
        yield address
    finally:
        head.send_signal(signal.SIGTERM)
        head.wait(timeout=60)
        log.close()


def _wait_for_jobs_api(address: str, environment: dict[str, str], head: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert head.poll() is None, "ray start ended"
        listed = subprocess.run(
            [RAY, "job", "list", "--address", address], env=environment, capture_output=True, check=False
        )
        if listed.returncode == 0:
            return
        time.sleep(1)
    pytest.fail("the cluster did not come up within 120 s")


@pytest.mark.timeout(900)
def test_smoke_config_as_a_job_on_a_real_cluster(cluster: str, tmp_path: Path) -> None:
    command = [
        RAY, "job", "submit", "--address", cluster, "--working-dir", ".", "--",
        "python", "jobs/fuse.py", "--config", "jobs/configs/smoke.yaml", f"run.root={tmp_path / 'runs'}",
    ]  # fmt: skip
    submitted = subprocess.run(
        command, cwd=REPOSITORY, env=job_environment(), capture_output=True, text=True, check=False, timeout=800
    )
    assert submitted.returncode == 0, submitted.stdout[-4000:] + submitted.stderr[-2000:]
    run = tmp_path / "runs" / "smoke"
    (folder,) = (run / "fuse").iterdir()
    assert parquet_entries(folder)
    assert all(row.target_chosen_reward > row.rejected_reward for row in read_rows(folder, Quadruple))
    exported = re.search(r"fused model: (\S+)", submitted.stdout)
    assert exported is not None
    _assert_loads_without_an_edit(Path(exported[1]))


def _assert_loads_without_an_edit(model: Path) -> None:
    """The exported folder opens in transformers and answers a chat, and holds what a hub page needs."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, loaded = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model)
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = loaded.generate(**inputs, max_new_tokens=4, do_sample=False)
    assert output.shape[1] > inputs["input_ids"].shape[1]
    names = {path.name for path in model.iterdir()}
    assert {"README.md", "config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja"} <= names
    assert any(name.endswith(".safetensors") for name in names)
    assert "alpha" in (model / "README.md").read_text()
