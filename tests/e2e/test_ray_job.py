"""The README's way onto a cluster: `ray job submit --working-dir . -- python jobs/fuse.py --config ...`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.canaries import assert_nothing_told, assert_only_with_token
from tests.job_cluster import RAY, job_environment, session_folder, started_cluster
from wrpo_ray.schema import Quadruple
from wrpo_ray.storage.location import locate
from wrpo_ray.storage.tables import parquet_entries, read_rows

REPOSITORY = Path(__file__).parents[2]
FUSE = ["jobs/fuse.py", "--config", "jobs/configs/smoke.yaml"]


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with started_cluster(tmp_path_factory.mktemp("head")) as address:
        yield address


@pytest.mark.timeout(900)
def test_smoke_config_as_a_job_on_a_real_cluster(cluster: str, tmp_path: Path) -> None:
    overrides = [f"run.root={tmp_path / 'runs'}"]
    command = [RAY, "job", "submit", "--address", cluster, "--working-dir", ".", "--", "python", *FUSE, *overrides]
    submitted = subprocess.run(
        command, cwd=REPOSITORY, env=job_environment(), capture_output=True, text=True, check=False, timeout=800
    )
    assert submitted.returncode == 0, submitted.stdout[-4000:] + submitted.stderr[-2000:]
    run = tmp_path / "runs" / "smoke"
    assert_only_with_token(cluster)
    assert_nothing_told(cluster, [tmp_path, session_folder()], submitted.stdout + submitted.stderr)
    (folder,) = (run / "fuse").iterdir()
    assert parquet_entries(locate(folder))
    assert all(row.target_chosen_reward > row.rejected_reward for row in read_rows(locate(folder), Quadruple))
    exported = re.search(r"fused model: (\S+)", submitted.stdout)
    assert exported is not None
    _assert_transformers_loads(Path(exported[1]))
    _assert_vllm_loads(Path(exported[1]))
    _assert_the_same_command_has_nothing_left_to_do(overrides)


def _assert_transformers_loads(model: Path) -> None:
    """The exported folder opens without an edit, answers a chat, and holds what a hub page needs."""
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


def _assert_vllm_loads(model: Path) -> None:
    """vLLM opens the exported folder without an edit; in a process of its own, for an engine changes its process."""
    script = (
        "from vllm import LLM, SamplingParams\n"
        f"engine = LLM({str(model)!r}, dtype='float32', enforce_eager=True, max_model_len=128)\n"
        "output = engine.chat([{'role': 'user', 'content': 'Hello'}], SamplingParams(max_tokens=4))\n"
        "assert output[0].outputs[0].token_ids\n"
    )
    environment = {**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1"}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, timeout=300, capture_output=True)


def _assert_the_same_command_has_nothing_left_to_do(overrides: list[str]) -> None:
    """From another folder and without a cluster: what decides a result is the same, so every step is complete."""
    planned = subprocess.run(
        [sys.executable, *FUSE, *overrides, "--dry-run"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert "to run" not in planned.stdout
    assert planned.stdout.count("complete") > 10
