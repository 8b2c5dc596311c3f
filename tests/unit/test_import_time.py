"""A bad config, --help and the doctor answer at once: what they import is light."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "ray", "transformers", "vllm", "deepspeed")
LIMIT_SECONDS = 1.5
PROGRAM = """
import sys, time
started = time.perf_counter()
import {module}
seconds = time.perf_counter() - started
heavy = [name for name in {heavy} if name in sys.modules]
print(seconds, *heavy)
"""


@pytest.mark.parametrize(
    "module",
    [
        "config_file",
        "schema",
        "storage",
        "steps",
        "prompts",
        "cli",
        "doctor",
        "console",
        "error_codes",
        "export_run",
        "planning.command",
        "planning.schedule",
    ],
)
def test_module_is_light(module: str) -> None:
    program = PROGRAM.format(module=f"wrpo_ray.{module}", heavy=HEAVY)
    # The second run: the first one may have to write byte code.
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    seconds, *heavy = done.stdout.split()
    assert heavy == []
    assert float(seconds) < LIMIT_SECONDS


@pytest.mark.parametrize("module", ["preflight", "prompts", "doctor"])
def test_module_imports_no_engine(module: str) -> None:
    program = PROGRAM.format(module=f"wrpo_ray.{module}", heavy=("vllm", "deepspeed"))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split()[1:] == []
