"""The smoke run with every engine and every worker on a CUDA device, in bfloat16: make test-gpu."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).parents[2]
ENGINES = ("sources.source-qwen2", "sources.source-neox", "target")
OVERRIDES = [
    *(f"{place}.resources.num_gpus=1" for place in (*ENGINES, "reward")),
    *(f"{place}.engine.dtype=bfloat16" for place in ENGINES),
    *(f"{place}.engine.gpu_memory_utilization=0.3" for place in ENGINES),
    "reward.dtype=bfloat16",
    *(f"{place}.num_gpus_per_worker=1" for place in ("sft", "wrpo")),
    *(f"{place}.precision=bf16" for place in ("sft", "wrpo")),
]


@pytest.mark.gpu
@pytest.mark.timeout(1200)
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_smoke_run_on_a_gpu(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "jobs/fuse.py",
        "--config",
        "jobs/configs/smoke.yaml",
        f"run.root={tmp_path}",
        *OVERRIDES,
    ]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "fused model:" in done.stdout
